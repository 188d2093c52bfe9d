"""Writes the tables in README.md and docs/ from the result files: `python benchmarks/document.py`.

A block between `<!-- figures: NAME -->` and `<!-- end of figures -->` is made anew by the function of that name: no
figure there is typed by hand. `--check` changes nothing and fails where a text is out of date. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import search_tables
from markdown_table import table
from quality_derived import at_cost, bundled_rows, families, of_kind
from quality_tables import TABLES, Table
from tables import RESULTS

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
TEXTS = (ROOT / "README.md", ROOT / "docs" / "quality.md", ROOT / "docs" / "search.md")
SAME_TOKENS = 0.02  # share of a run's tokens by which two count as equal
HOST = "0.3.64"
BLOCK = re.compile(r"(<!-- figures: ([\w -]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
README_TABLES = ("easy-cfg3", "easy-cfg6", "hard-cfg3", "hard-cfg6")


def result_of(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"quality-{name}-{HOST}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def measured(names: Sequence[str]) -> Iterator[tuple[Table, dict[str, Any]]]:
    for name in names:
        result = result_of(name)
        if result is not None:
            yield TABLES[name], result


def signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.1f}"


def spread_of(values: Sequence[float]) -> str:
    return f"{min(values):.0f}…{max(values):.0f}"


def with_spread(value: float | None, pairs: Sequence[float] | None) -> str | None:
    """A mean, its standard error over the pairs and, in brackets, the least and the most."""
    if value is None or not pairs or len(pairs) < 2:
        return signed(value)
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    return f"{signed(value)} ± {error:.1f} ({spread_of(pairs)})"


def bundled(names: Sequence[str], *, linked: str) -> str:
    """Every bundled schedule of the tables against the step caches and the controls."""
    header = ["clips, sampling", "budget", "PSNR", "speed-up", "− EasyCache", "− EasyCache, flicker"]
    header += ["− paper", "− best control", "which is"]
    lines = []
    for described, result in measured(names):
        by_name = {row["name"]: row for row in result["rows"]}
        for row in result["derived"]:
            lines.append(
                [
                    f"[{way(described)}]({linked}quality-{described.name}-{HOST}.md)",
                    f"{row['budget']:g}",
                    f"{row['psnr']:.1f} ({spread_of(by_name[row['name']]['psnr']['all'])})",
                    f"{row['speedup']:.2f}x",
                    with_spread(row["minus_easycache"], row["minus_easycache_pairs"]),
                    signed(row["minus_easycache_temporal"]),
                    signed(row["minus_paper 1.3B"]),
                    with_spread(row["minus_best_control 1.3B"], row["minus_best_control_pairs 1.3B"]),
                    row["best_control 1.3B"],
                ]
            )
    return table(header, lines)


def way(described: Table) -> str:
    """How a table samples, in words."""
    sampler = described.sampler if described.scheduler == "simple" else f"{described.sampler}/{described.scheduler}"
    return f"{described.testbed}, {sampler}, {described.steps} steps, guidance {described.cfg:g}"


def controls(name: str) -> str:
    """Every family at every budget, against the bundled schedule over the pairs that both have."""
    result = result_of(name)
    if result is None:
        return ""
    shipped = {row["budget"]: row for row in of_kind(result["rows"], "default")}
    budgets = sorted(shipped, reverse=True)
    lines = []
    for family, members in families(of_kind(result["rows"], "control")).items():
        lines.append([family, *(_behind(_as_many_tokens(members, shipped[b]), shipped[b]) for b in budgets)])
    lines.sort(key=_mean_of_cells, reverse=True)
    first = ["bundled", *(f"{shipped[budget]['psnr']['mean']:.1f} dB" for budget in budgets)]
    return table(["", *(f"{budget:g}" for budget in budgets)], [first, *lines])


def _mean_of_cells(line: Sequence[str | None]) -> float:
    return statistics.fmean(float(cell.split()[0]) for cell in line[1:] if cell is not None)


def _as_many_tokens(members: Sequence[Row], shipped: Row) -> Row | None:
    """The member that computes most nearly as many tokens, if there is one that nearly does."""
    apart = {row["name"]: abs(row["computed_share"] - shipped["computed_share"]) for row in members}
    nearest = min(members, key=lambda row: apart[row["name"]])
    return nearest if apart[nearest["name"]] <= SAME_TOKENS else None


def _behind(row: Row | None, shipped: Row) -> str | None:
    if row is None:
        return None
    ahead = [a - b for a, b in zip(row["psnr"]["all"], shipped["psnr"]["all"], strict=False)]
    few = "" if row["pairs"] == shipped["pairs"] else f" ({row['pairs']})"
    return f"{statistics.fmean(ahead):+.1f}{few}"


def ablation(label: str) -> str:
    """What each variant gains over the shipped way, in dB; in brackets on how many of the pairs it is better."""
    columns = list(measured([f"{testbed}-{label}" for testbed in ("easy", "hard")]))
    if not columns:
        return ""
    header, names = [""], list(dict.fromkeys(row["family"] for _, result in columns for row in result["rows"]))
    cells: dict[str, list[str | None]] = {name: [] for name in names}
    for described, result in columns:
        for budget in sorted({row["budget"] for row in result["rows"]}, reverse=True):
            header.append(f"{described.testbed} {budget:g}")
            at = {row["family"]: row for row in result["rows"] if row["budget"] == budget}
            shipped = at["as shipped"]
            for name in names:
                cells[name].append(_gain(at.get(name), shipped))
    return table(header, [[name, *cells[name]] for name in names])


def _gain(row: Row | None, shipped: Row) -> str | None:
    if row is None:
        return None
    if row is shipped:
        return f"{row['psnr']['mean']:.1f} dB"
    gains = [a - b for a, b in zip(row["psnr"]["all"], shipped["psnr"]["all"], strict=True)]
    return f"{statistics.fmean(gains):+.1f} ({sum(gain > 0 for gain in gains)}/{len(gains)})"


def fractions(names: Sequence[str]) -> str:
    """The best schedule of whole steps against the best with token steps, at each bundled schedule's cost."""
    header = ["clips, sampling", "budget", "best of whole steps", "PSNR", "best with token steps", "behind it"]
    lines = []
    for described, result in measured(names):
        for row in bundled_rows(result["rows"]):
            best = {whole: _best_at(row, result["rows"], whole) for whole in (True, False)}
            (whole_name, whole), (token_name, token) = best[True], best[False]
            behind = None if token is None or whole is None else f"{whole - token:.1f} dB"
            lines.append([way(described), f"{row['budget']:g}", whole_name, whole, token_name, behind])
    return table(header, lines)


def _best_at(row: Row, rows: Sequence[Row], whole: bool) -> tuple[str | None, float | None]:
    """Name and PSNR of the best at the row's cost."""
    controls = families([r for r in of_kind(rows, "control") if r["family"].startswith("whole steps") == whole])
    known = {name: at_cost(row, members, "1.3B") for name, members in controls.items()}
    if whole:
        known["bundled"] = row["psnr"]["mean"]
    found = {name: value for name, value in known.items() if value is not None}
    best = max(found, key=lambda name: found[name], default=None)
    return best, None if best is None else found[best]


def reruns() -> str:
    """Tables that were measured twice."""
    header = ["table", "first, second", "rows", "PSNR of a pair, at most apart", "spread of a row over pairs, median"]
    header += ["speed-up, second over first"]
    lines = []
    for path in sorted(RESULTS.glob("rerun-*.json")):
        result = json.loads(path.read_text("utf-8"))
        hosts = ", ".join(run["comfyui"] for run in result["runs"])
        spread = statistics.median(row["spread"] for row in result["rows"])
        ratios = result["speedup_ratios"]
        speeds = f"{ratios['median']:.2f} ({ratios['min']:.2f}…{ratios['max']:.2f})"
        link = f"[{result['table']}](../benchmarks/results/{path.name})"
        lines.append([link, hosts, len(result["rows"]), f"{result['most_apart']:.3f} dB", f"{spread:.1f} dB", speeds])
    return table(header, lines)


ALL = [name for name, described in TABLES.items() if not described.is_ablation]
WHOLE = [name for name, described in TABLES.items() if described.space == "whole"]
BLOCKS: dict[str, Callable[[], str]] = {
    "bundled": lambda: bundled(README_TABLES, linked="benchmarks/results/"),
    "searched for all": search_tables.found_for_all,
    "bundled everywhere": lambda: bundled(ALL, linked="../benchmarks/results/"),
    "token steps": lambda: fractions(WHOLE),
    **{f"controls {name}": lambda name=name: controls(name) for name in WHOLE},
    "ablation of token steps": lambda: ablation("ablation-tokens"),
    "ablation of whole steps": lambda: ablation("ablation-reuse"),
    "ideas at guidance 3": lambda: ablation("ideas-cfg3"),
    "ideas at guidance 6": lambda: ablation("ideas-cfg6"),
    "reruns": reruns,
    **{
        f"search {what} {testbed}": lambda testbed=testbed, make=make: search_tables.of_result(testbed, 30, make)
        for what, make in search_tables.TABLES.items()
        for testbed in ("easy", "hard")
    },
    "search ahead easy other pairs": lambda: search_tables.of_result("easy", 30, search_tables.ahead, "-other-pairs"),
}


def filled(text: str) -> str:
    return BLOCK.sub(lambda match: f"{match[1]}\n{BLOCKS[match[2]]()}\n{match[3]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only tell whether the texts are up to date")
    args = parser.parse_args()
    outdated = []
    for path in TEXTS:
        text = path.read_text("utf-8")
        if filled(text) != text:
            outdated.append(path.name)
            if not args.check:
                path.write_text(filled(text), "utf-8")
    if args.check and outdated:
        raise SystemExit(f"Out of date: {', '.join(outdated)}; run python benchmarks/document.py.")
    print("\n".join(outdated) or "up to date")


if __name__ == "__main__":
    main()
