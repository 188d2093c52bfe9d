"""Writes the tables in README.md and docs/ from the result files: `python benchmarks/document.py`.

A block between `<!-- figures: NAME -->` and `<!-- end of figures -->` is written by the function of that name: no
figure there is typed by hand. `--check` changes nothing and fails if a text is out of date. Standard library only.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from lib.markdown import table
from lib.quality.derived import at_cost, bundled_rows, families, of_kind
from lib.quality.settings import MAIN_TABLES, TABLES, Table
from lib.quality.tables import HOST, quality_result
from lib.results import ROOT
from lib.search import tables as search_tables

Row = dict[str, Any]
TEXTS = (ROOT / "README.md", ROOT / "docs" / "quality.md", ROOT / "docs" / "search.md")
SAME_TOKENS = 0.02  # share of a run's tokens up to which two schedules count as equal
BLOCK = re.compile(r"(<!-- figures: ([\w -]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.1f}"


def spread_of(values: Sequence[float]) -> str:
    return f"{min(values):.0f}…{max(values):.0f}"


def with_spread(value: float | None, pairs: Sequence[float] | None) -> str | None:
    """A mean, its standard error over the pairs and, in brackets, minimum and maximum."""
    if value is None or not pairs or len(pairs) < 2:
        return signed(value)
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    return f"{signed(value)} ± {error:.1f} ({spread_of(pairs)})"


def bundled(names: Sequence[str], *, linked: str) -> str:
    """Bundled schedules of the tables against the step caches and the controls."""
    header = ["clips, sampling", "budget", "PSNR", "speed-up", "− EasyCache", "− EasyCache, flicker"]
    header += ["− paper", "− best control", "which is"]
    lines = []
    for described, result in ((TABLES[name], quality_result(name)) for name in names):
        by_name = {row["name"]: row for row in result["rows"]}
        for row in result["derived"]:
            lines.append(
                [
                    f"[{config(described)}]({linked}quality-{described.name}-{HOST}.md)",
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


def config(described: Table) -> str:
    """The sampling config of a table, in words."""
    sampler = described.sampler if described.scheduler == "simple" else f"{described.sampler}/{described.scheduler}"
    return f"{described.testbed}, {sampler}, {described.steps} steps, guidance {described.cfg:g}"


def controls(name: str) -> str:
    """PSNR of each control family at each budget, relative to the bundled schedule on the pairs that both have."""
    result = quality_result(name)
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
    """The member whose number of computed tokens is nearest, if it is near enough."""
    apart = {row["name"]: abs(row["computed_share"] - shipped["computed_share"]) for row in members}
    nearest = min(members, key=lambda row: apart[row["name"]])
    return nearest if apart[nearest["name"]] <= SAME_TOKENS else None


def _behind(row: Row | None, shipped: Row) -> str | None:
    if row is None:
        return None
    ahead = [a - b for a, b in zip(row["psnr"]["all"], shipped["psnr"]["all"], strict=False)]
    few = "" if row["pairs"] == shipped["pairs"] else f" ({row['pairs']})"
    return f"{statistics.fmean(ahead):+.1f}{few}"


def partial_steps(names: Sequence[str]) -> str:
    """The best step-skipping schedule against the best with partial steps, at each bundled schedule's cost."""
    header = ["clips, sampling", "budget", "best of whole steps", "PSNR", "best with token steps", "behind it"]
    lines = []
    for described, result in ((TABLES[name], quality_result(name)) for name in names):
        for row in bundled_rows(result["rows"]):
            best = {whole: _best_at(row, result["rows"], whole) for whole in (True, False)}
            (whole_name, whole), (token_name, token) = best[True], best[False]
            behind = None if token is None or whole is None else f"{whole - token:.1f} dB"
            lines.append([config(described), f"{row['budget']:g}", whole_name, whole, token_name, behind])
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


WHOLE = [name for name, described in TABLES.items() if described.space == "whole"]
BLOCKS: dict[str, Callable[[], str]] = {
    "bundled": lambda: bundled(MAIN_TABLES, linked="benchmarks/results/"),
    "searched for all": search_tables.found_for_all,
    "bundled everywhere": lambda: bundled(list(TABLES), linked="../benchmarks/results/"),
    "token steps": lambda: partial_steps(WHOLE),
    **{f"controls {name}": lambda name=name: controls(name) for name in WHOLE},
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
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a text is out of date")
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
