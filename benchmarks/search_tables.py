"""Tables from the results of `search.py` and `find_schedules.py`. Standard library only."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markdown_table import table
from quality_derived import value_at

Row = dict[str, Any]
RESULTS = Path(__file__).resolve().parent / "results"
DRAWN = ("uniform", "whole steps", "token rhythm")
SEARCHED = ("ours", "paper's search")
SPLITS = 400
STANDARD = {"expected": 0.0, "along": "sigma", "corrected_along": "sigma", "bend": 1.0, "last_response": 0.0}


def results() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Those of `search.py`, by testbed and steps."""
    for path in sorted(RESULTS.glob("search-*.json")):
        yield path, json.loads(path.read_text("utf-8"))


def is_drawn(row: Row) -> bool:
    return row["contestant"].startswith(DRAWN)


def best_drawn(rows: Sequence[Row], budget: float) -> Row | None:
    """The hand-made schedule that is best on the held-out pairs themselves: in its favour."""
    drawn = [row for row in rows if row["budget"] == budget and is_drawn(row)]
    return max(drawn, key=lambda row: row["psnr"], default=None)


def mean_loss_db(row: Row) -> float:
    """PSNR of the mean square error over the pairs, which the worst of them decide."""
    return -10.0 * math.log10(statistics.fmean(10.0 ** (-value / 10.0) for value in row["psnr_all"]))


def of_contestant(rows: Sequence[Row], budget: float, contestant: str) -> list[Row]:
    return [row for row in rows if row["budget"] == budget and row["contestant"] == contestant]


def over_seeds(values: Sequence[float], signed: bool = False, digits: int = 1) -> str | None:
    """Mean, and least and most where there are several."""
    if not values:
        return None
    form = f"{'+' if signed else ''}.{digits}f"
    spread = f" ({min(values):{form}}…{max(values):{form}})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{spread}"


def contest(result: dict[str, Any]) -> str:
    """Every contestant at every budget on the held-out pairs."""
    rows = result["rows"]
    budgets = sorted({row["budget"] for row in rows}, reverse=True)
    lines = [_line("best drawn by hand", [[best_drawn(rows, b)] for b in budgets])]
    names = dict.fromkeys(row["contestant"] for row in rows if not is_drawn(row))
    lines += [_line(name, [of_contestant(rows, b, name) for b in budgets]) for name in sorted(names, key=_order)]
    header = [""]
    for budget in budgets:
        header += [f"{budget:g}: PSNR", "of the mean error", "work"]
    return table(header, lines)


def _order(name: str) -> tuple[int, str, float]:
    kind = next((i for i, start in enumerate(SEARCHED) if name.startswith(start)), len(SEARCHED))
    effort = name.rpartition("effort ")[2]
    return (-kind, name.partition(",")[0], float(effort) if effort.replace(".", "").isdigit() else 0.0)


def _line(name: str, by_budget: Sequence[Sequence[Row | None]]) -> list[Any]:
    line: list[Any] = [name]
    for rows in by_budget:
        known = [row for row in rows if row is not None]
        work = over_seeds([row["spent"] for row in known if row["spent"]])
        line += [over_seeds([row["psnr"] for row in known]), over_seeds([mean_loss_db(row) for row in known]), work]
    return line


def ahead(result: dict[str, Any]) -> str:
    """What the search with 30 dense-run equivalents gains over what is drawn by hand, the paper's and EasyCache."""
    rows = result["rows"]
    budgets = sorted({row["budget"] for row in rows if row["contestant"] == "ours, effort 30"}, reverse=True)
    header = [
        "budget",
        "PSNR",
        "− best drawn by hand",
        "± over pairs",
        "− drawn, chosen on other pairs",
        "− paper's search",
        "with work of",
        "− EasyCache, same time",
        "seeds",
    ]
    lines = []
    for budget in budgets:
        own = of_contestant(rows, budget, "ours, effort 30")
        values = [row["psnr"] for row in own]
        drawn = best_drawn(rows, budget)
        papers = [row for row in rows if row["budget"] == budget and row["contestant"].startswith("paper's search,")]
        most = max((row["spent"] for row in papers), default=None)
        paper = [row["psnr"] for row in papers if row["contestant"] == _most_work(papers)]
        cached = _easycache(result, budget)
        lines.append(
            [
                f"{budget:g}",
                over_seeds(values),
                over_seeds([value - drawn["psnr"] for value in values], True) if drawn is not None else None,
                _uncertain(own, drawn),
                _over_chosen(own, rows, budget),
                over_seeds([value - statistics.fmean(paper) for value in values], True) if paper else None,
                None if most is None else f"{most:.0f}",
                None if cached is None else f"{cached:+.1f}",
                len(own),
            ]
        )
    return table(header, lines)


def _uncertain(own: Sequence[Row], drawn: Row | None) -> str | None:
    """Standard error of the gain, as the pairs differ; seeds' means taken pair by pair."""
    if drawn is None:
        return None
    means = [statistics.fmean(values) for values in zip(*(row["psnr_all"] for row in own), strict=True)]
    gain = gain_over_pairs({"psnr_all": means}, drawn)
    return None if gain is None else f"{gain[1]:.1f}"


def _over_chosen(own: Sequence[Row], rows: Sequence[Row], budget: float) -> str | None:
    """The gain over the drawn schedule that is best on one half of the pairs, on the other half; mean over splits.

    The best of many on the very pairs that it is held against has luck in it.
    """
    means = [statistics.fmean(values) for values in zip(*(row["psnr_all"] for row in own), strict=True)]
    drawn = [row["psnr_all"] for row in rows if row["budget"] == budget and is_drawn(row)]
    drawn = [values for values in drawn if len(values) == len(means)]
    if not drawn:
        return None
    order, gains = random.Random(0), []
    for _ in range(SPLITS):
        pairs = order.sample(range(len(means)), len(means))
        chosen_on, held_out = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
        rival = max(drawn, key=lambda values: sum(values[pair] for pair in chosen_on))
        gains.append(statistics.fmean(means[pair] - rival[pair] for pair in held_out))
    return f"{statistics.fmean(gains):+.1f}"


def _most_work(papers: Sequence[Row]) -> str:
    return max(papers, key=lambda row: row["spent"])["contestant"]


def _easycache(result: dict[str, Any], budget: float) -> float | None:
    """dB over EasyCache at no less speed, by the clock."""
    timed = result.get("easycache", [])
    own = next((row for row in timed if row["name"] == f"ours {budget:g}"), None)
    points = [(row["speedup"], row["psnr"]) for row in timed if row["name"].startswith("EasyCache")]
    if own is None or not points:
        return None
    value, _ = value_at(points, own["speedup"])
    return None if value is None else own["psnr"] - value


def gain_over_pairs(row: Row, base: Row) -> tuple[float, float] | None:
    """Mean gain in dB, pair by pair, and its standard error; None where the pairs are not the same."""
    own, other = row["psnr_all"], base["psnr_all"]
    if len(own) != len(other):
        return None
    gains = [a - b for a, b in zip(own, other, strict=True)]
    return statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))


def forecasts(result: dict[str, Any]) -> str:
    """Ways to forecast on the same steps, against the standard one."""
    rows = result.get("forecasts", [])
    if not rows:
        return ""
    standard = {
        (row["cfg"], row["budget"]): row for row in rows if {"last_response": 0.0, **row["forecast"]} == STANDARD
    }
    cells: dict[str, dict[tuple, str]] = {}
    for row in rows:
        base = standard[row["cfg"], row["budget"]]
        gain = gain_over_pairs(row, base)
        if row is not base and gain is not None:
            way = row["forecast"]
            name = f"{way['expected']:g}, {way['along']}, bend {way['bend']:g}"
            cells.setdefault(name, {})[row["cfg"], row["budget"]] = f"{gain[0]:+.1f} ± {gain[1]:.1f}"
    header = ["expected to come true, along, bend", *(f"cfg {cfg:g}, {budget:g}" for cfg, budget in standard)]
    return table(header, [[name, *(found.get(key) for key in standard)] for name, found in cells.items()])


def transfer(result: dict[str, Any]) -> str:
    """What was found for one way of sampling, on others, over what is drawn by hand."""
    rows = result.get("transfer", [])
    budgets = sorted({row["budget"] for row in rows}, reverse=True)
    ways: dict[str, dict[float, Row]] = {}
    for row in rows:
        name = ", ".join(f"{key} {value}" for key, value in row["to"].items())
        ways.setdefault(name, {})[row["budget"]] = row
    lines = []
    for name, found in ways.items():
        lines.append([name, *(_gain(found.get(budget), "ours") for budget in budgets)])
        if any(row["ours"] != row["ours_trusted"] for row in found.values()):
            lines.append([f"{name}, forecasts trusted", *(_gain(found.get(b), "ours_trusted") for b in budgets)])
    return table(["to", *(f"{budget:g}" for budget in budgets)], lines)


def _gain(row: Row | None, of: str) -> str | None:
    return None if row is None else over_seeds([value - row["drawn"] for value in row[of]], True)


def times(result: dict[str, Any]) -> str:
    """Promised against measured seconds, over several searches, beside those of the dense runs between."""
    by_budget: dict[float, list[Row]] = {}
    for row in result.get("time", []):
        by_budget.setdefault(row["budget"], []).append(row)
    lines = []
    for budget, rows in by_budget.items():
        own = [statistics.fmean(row["measured"]) / row["promised"] for row in rows]
        dense = [statistics.fmean(row["dense_measured"]) / row["dense_promised"] for row in rows]
        shares = (own, dense, [one / other for one, other in zip(own, dense, strict=True)])
        offs = [[share - 1.0 for share in column] for column in shares]
        lines.append(
            [
                f"{budget:g}",
                over_seeds([row["promised"] for row in rows], digits=3),
                over_seeds([statistics.fmean(row["measured"]) for row in rows], digits=3),
                *(f"{statistics.fmean(off):+.1%} ({min(off):+.1%}…{max(off):+.1%})" for off in offs),
                len(rows),
            ]
        )
    header = ["budget", "promised, s", "measured, s", "off", "dense runs, off", "off beside these", "searches"]
    return table(header, lines)


def replayed(result: dict[str, Any]) -> str:
    """How well replay ranks."""
    header = ["budget", "schedules", "rank correlation with real runs", "without the model's response"]
    lines = [
        [
            f"{row['budget']:g}",
            row["schedules"],
            f"{row['rank_correlation']:.2f}",
            f"{row['rank_correlation_without_responses']:.2f}",
        ]
        for row in result.get("replay", [])
    ]
    return table(header, lines)


def small_clips(result: dict[str, Any]) -> str:
    """How gains on small clips go with those in full size."""
    heads = ["budget", "placements", "pairs", "tokens", "time", "correlation of gains", "too high by, dB", "spread"]
    return table(
        heads,
        [
            [
                f"{row['budget']:g}",
                len(row["gains_small"]),
                row["pairs"],
                f"{row['share']:.1%}",
                f"{row['share_by_the_clock']:.0%}",
                f"{row['correlation']:.2f}",
                f"{row['off']:+.1f}",
                f"{row['off_spread']:.1f}",
            ]
            for row in result.get("small", [])
        ],
    )


def found_for_all() -> str:
    """What `find_schedules.py` found, against what is drawn by hand, on its control pairs."""
    header = [
        "steps",
        "guidance",
        "budget",
        "gain, dB",
        "± over pairs",
        "expected, along, bend",
        "which steps",
        "bundled",
    ]
    lines: list[list[Any]] = []
    for path in sorted(RESULTS.glob("schedules-*.json")):
        for row in json.loads(path.read_text("utf-8"))["rows"]:
            gains, way = row["gain"]["all"], row["forecast"]
            groups = {name: row["psnr_by"][name] - drawn for name, drawn in row["psnr_by_drawn"].items()}
            lines.append(
                [
                    row["steps"],
                    f"{row['guidance']:g}",
                    f"{row['budget']:g}",
                    f"{row['gain']['mean']:+.1f}",
                    f"{statistics.stdev(gains) / math.sqrt(len(gains)):.1f}",
                    *(f"{gain:+.1f}" for gain in groups.values()),
                    f"{way['expected']:g}, {way['along']}, {way['bend']:g}",
                    _steps_beside_drawn(row),
                    "yes" if row["bundled"] else "no",
                ]
            )
            header[5:-3] = list(groups)
    return table(header, lines) if lines else ""


def _steps_beside_drawn(row: Row) -> str:
    if row["budgets"] == row["budgets_drawn"]:
        return "as drawn"
    return "some in part" if any(0.0 < budget < 1.0 for budget in row["budgets"]) else "other whole ones"


def on_the_same_pairs(result: dict[str, Any]) -> dict[str, Any]:
    """Without rows that were run on other pairs than are held out now."""
    now = result["settings"]["held_out_pairs"], result["settings"].get("held_out_seeds_from")
    rows = [row for row in result["rows"] if (len(row["psnr_all"]), row.get("held_out_seeds_from")) == now]
    return {**result, "rows": rows}


def of_result(testbed: str, steps: int, make: Any, tag: str = "") -> str:
    """A table of one result, or "" before it was measured."""
    for path, result in results():
        if re.match(rf"search-{testbed}-{steps}-steps{tag}-\d", path.name):
            return make(on_the_same_pairs(result))
    return ""


TABLES: dict[str, Any] = {
    "ahead": ahead,
    "contest": contest,
    "transfer": transfer,
    "times": times,
    "replay": replayed,
    "small": small_clips,
    "forecasts": forecasts,
}
