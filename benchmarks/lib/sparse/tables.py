"""Tables of `sparse_quality.json`. Standard library only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from ..markdown import heading, table
from ..quality.settings import SETTINGS

AUTO, RANDOM, RAINFUSION, ALONE, TOGETHER = (
    "auto", "random tiles", "rainfusion", "Accelerate alone", "auto with Accelerate",
)  # fmt: skip
UNKNOWABLE = "best tiles"  # no method can know them
METHODS = (
    AUTO, "routing", "SVG2", "DraftAttention", RAINFUSION, "tile means by place", "tile means in cubes", "near frames",
    "same place", "even subset", RANDOM, UNKNOWABLE, "auto, rest as mean",
)  # fmt: skip
Row = dict[str, Any]


def title(row: Row) -> str:
    return f"{SETTINGS[row['setting']].title}, {row['clips']}"


def point_of(row: Row, method: str, density: float) -> dict[str, Any] | None:
    return next((p for p in row.get("points", []) if (p["method"], p["density"]) == (method, density)), None)


def densities_of(row: Row) -> list[float]:
    return sorted({p["density"] for p in row.get("points", []) if p["method"] == AUTO}, reverse=True)


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's, with mean ranks of ties."""
    rx, ry = ranks(xs), ranks(ys)
    mx, my = statistics.fmean(rx), statistics.fmean(ry)
    top = sum((a - mx) * (b - my) for a, b in zip(rx, ry, strict=True))
    below = math.sqrt(sum((a - mx) ** 2 for a in rx) * sum((b - my) ** 2 for b in ry))
    return top / below if below else 0.0


def ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    return [statistics.fmean(n for n, each in enumerate(order) if each == value) for value in values]


def error_tells_loss(row: Row) -> float | None:
    """Rank correlation of the reported error and the loss, over clips, densities and methods."""
    pairs = [
        (error, -psnr)
        for point in row.get("points", [])
        if point["error"] is not None
        for error, psnr in zip(point["error"], point["psnr"]["all"], strict=True)
    ]
    return rank_correlation(*zip(*pairs, strict=True)) if len(pairs) > 2 else None


def lead(row: Row, density: float, other: str) -> float | None:
    """Mean lead of `auto` over another method, in dB."""
    own, theirs = point_of(row, AUTO, density), point_of(row, other, density)
    return None if own is None or theirs is None else own["psnr"]["mean"] - theirs["psnr"]["mean"]


def best_single(row: Row, density: float) -> tuple[str, float] | None:
    """The method of the highest PSNR that takes the same way for every head, and its lead over `auto`."""
    named = [
        p for p in row.get("points", [])
        if p["density"] == density and not p["method"].startswith("auto") and p["method"] != UNKNOWABLE
    ]  # fmt: skip
    if not named:
        return None
    best = max(named, key=lambda p: p["psnr"]["mean"])
    return best["method"], -(lead(row, density, best["method"]) or 0.0)


def added(row: Row, density: float) -> tuple[float, float] | None:
    """PSNR with Accelerate, and what independent errors of the two would give."""
    alone, sparse = point_of(row, ALONE, 1.0), point_of(row, AUTO, density)
    both = point_of(row, TOGETHER, density)
    if alone is None or sparse is None or both is None:
        return None
    pairs = zip(alone["psnr"]["all"], sparse["psnr"]["all"], strict=True)
    expected = statistics.fmean(-10 * math.log10(10 ** (-a / 10) + 10 ** (-b / 10)) for a, b in pairs)
    return both["psnr"]["mean"], expected


def summary_table(rows: Sequence[Row]) -> str:
    """One line per row and density: `auto` and its leads."""
    lines = []
    for row in rows:
        for density in densities_of(row):
            own, single, together = point_of(row, AUTO, density), best_single(row, density), added(row, density)
            assert own is not None
            leads = [lead(row, density, other) for other in (RANDOM, RAINFUSION)]
            lines.append(
                [
                    title(row), f"{density:g}", _spread(own["psnr"]), *map(_signed, leads),
                    "–" if single is None else f"{_signed(-single[1])} ({single[0]})",
                    "–" if together is None else f"{together[0]:.1f} ({together[1]:.1f})",
                ]
            )  # fmt: skip
    head = [
        "setting, model", "density", "PSNR", "− random tiles", "− RainFusion", "− best of all others",
        "with Accelerate (if errors add)",
    ]  # fmt: skip
    return table(head, lines)


def sparse_markdown(result: dict[str, Any]) -> str:
    rows = result.get("rows", [])
    lines = [heading("Sparse attention: quality", result["environment"])]
    lines += ["dB to the dense run of the same seed, mean over clips (least and most in brackets).", ""]
    lines.append(summary_table([row for row in rows if "points" in row]))
    for row in rows:
        lines += ["", f"## {row['setting']}, {row['clips']}: {row['sampling']}", ""]
        if "points" in row:
            lines.append(points_table(row))
            correlation = error_tells_loss(row)
            if correlation is not None:
                lines += [f"Rank correlation of the reported error and the loss: {correlation:.2f}", ""]
        if "heads" in row:
            lines.append(heads_table(row))
    return "\n".join(lines) + "\n"


def points_table(row: Row) -> str:
    lines = [
        [
            p["method"], f"{p['density']:g}", _spread(p["psnr"]), f"{p['temporal_psnr']['mean']:.1f}",
            "–" if p["error"] is None else f"{statistics.fmean(p['error']):.3f}", f"{p['share']:.2f}",
        ]
        for p in row["points"]
    ]  # fmt: skip
    return table(["method", "density", "PSNR", "flicker", "attention error", "computed"], lines)


def heads_table(row: Row) -> str:
    """Mean recall and error of each way over heads and steps, and how often it is the best that can be known."""
    lines = []
    for density in sorted({h["density"] for h in row["heads"]}, reverse=True):
        at = [h for h in row["heads"] if h["density"] == density]
        heads: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for each in at:
            heads.setdefault((each["step"], each["layer"]), []).append(each)
        known = [
            min((h for h in group if h["method"] != UNKNOWABLE), key=lambda h: h["error"]) for group in heads.values()
        ]
        for method in dict.fromkeys(h["method"] for h in at):
            own = [h for h in at if h["method"] == method]
            wins = sum(each["method"] == method for each in known)
            recall, error = (statistics.fmean(h[name] for h in own) for name in ("recall", "error"))
            lines.append([method, f"{density:g}", f"{recall:.2f}", f"{error:.3f}", f"{wins / len(known):.0%}"])
    return table(["way", "density", "recall", "output error", "best in"], lines)


def usual_table(rows: Sequence[Row]) -> str:
    """One line for each setting, mean over the models measured."""
    lines = []
    for name in dict.fromkeys(row["setting"] for row in rows if "points" in row):
        own = [row for row in rows if row["setting"] == name and "points" in row]
        setting = SETTINGS[name]
        cells: list[Any] = [setting.title, setting.described]
        for density in (0.5, 0.3):
            points = [point for row in own if (point := point_of(row, AUTO, density)) is not None]
            cells.append(f"{statistics.fmean(point['psnr']['mean'] for point in points):.1f}")
            for other in (RANDOM, RAINFUSION):
                leads = [found for row in own if (found := lead(row, density, other)) is not None]
                cells.append(_signed(statistics.fmean(leads)))
        lines.append(cells)
    at = ["dB at density 0.5", "− random", "− RainFusion", "dB at 0.3", "− random", "− RainFusion"]
    return table(["what people run", "sampling", *at], lines)


def ways_table(rows: Sequence[Row]) -> str:
    """PSNR of every method, mean over the rows that have all of them."""
    full = [row for row in rows if point_of(row, UNKNOWABLE, densities_of(row)[0] if densities_of(row) else 0.0)]
    lines = []
    for method in METHODS:
        cells: list[Any] = [method]
        for density in (0.5, 0.3):
            points = [point for row in full if (point := point_of(row, method, density)) is not None]
            if points:
                cells.append(f"{statistics.fmean(point['psnr']['mean'] for point in points):.1f}")
                cells.append(f"{statistics.fmean(e for point in points for e in point['error'] or [0.0]):.2f}")
        if len(cells) == 5:
            lines.append(cells)
    return table(["method", "dB at 0.5", "attention error", "dB at 0.3", "attention error"], lines)


def all_heads_table(rows: Sequence[Row]) -> str:
    """Mean recall and error of each way over the heads of all rows."""
    heads = [
        {**head, "step": (number, head["step"])} for number, row in enumerate(rows) for head in row.get("heads", [])
    ]
    return heads_table({"heads": heads})


def correlation_table(rows: Sequence[Row]) -> str:
    correlations = [(title(row), error_tells_loss(row)) for row in rows if "points" in row]
    return table(["setting, model", "rank correlation"], [[name, value] for name, value in correlations])


def kept_table(rows: Sequence[Row]) -> str:
    """PSNR by what stays dense, and by density without more of it: with the share of attention that a run computes."""
    measured = [row for row in rows if "kept" in row]
    ways = list(dict.fromkeys((p["method"], p["density"]) for row in measured for p in row["kept"]))
    lines = []
    for method, density in ways:
        cells = [f"{method}, density {density:g}"]
        for row in measured:
            point = next((p for p in row["kept"] if (p["method"], p["density"]) == (method, density)), None)
            cells.append("–" if point is None else f"{point['psnr']['mean']:.1f} ({point['attention']:.2f})")
        lines.append(cells)
    return table(["what stays dense", *map(title, measured)], lines)


def _spread(figures: dict[str, Any]) -> str:
    return f"{figures['mean']:.1f} ({figures['min']:.0f}…{figures['max']:.0f})"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"
