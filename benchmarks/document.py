"""Writes the tables in README.md and docs/*.md from the result files: `python benchmarks/document.py`.

A block between `<!-- figures: NAME -->` and `<!-- end of figures -->` is written by the function of that name: no
figure there is typed by hand. `--check` changes nothing and fails if a text is out of date. Standard library only.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from lib.host.tables import real_size
from lib.quality import first_screen, tables
from lib.results import RESULTS, ROOT, read_json
from lib.scaling import tables as scaling
from lib.sparse import tables as sparse

TEXTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"(<!-- figures: ([\w -]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def result_of(name: str) -> dict[str, Any]:
    """A result by its file's name. Raises FileNotFoundError if it was not measured."""
    result = read_json(RESULTS / f"{name}.json")
    if result is None:
        raise FileNotFoundError(f"results/{name}.json")
    return result


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a result on the host of the documents. Raises FileNotFoundError if it was not measured."""
    return result_of(f"{name}-{tables.HOST}")["rows"]


BLOCKS: dict[str, Callable[[], str]] = {
    "expected": lambda: tables.expected(rows_of("quality")),
    "picture": lambda: first_screen.caption(result_of(f"side_by_side-{tables.HOST}")),
    "your model": lambda: first_screen.your_model(rows_of("quality")),
    "leads": lambda: first_screen.lead_means(rows_of("quality")),
    "usual": lambda: tables.usual(rows_of("quality")),
    "main": lambda: tables.leads(rows_of("quality")),
    "placement": lambda: tables.placements(rows_of("placement")),
    "placed by clip": lambda: tables.placed_by_clip(rows_of("placement")),
    "token placements": lambda: tables.placements(rows_of("placement-tokens")),
    "search means": lambda: tables.search_means(rows_of("search")),
    "search": lambda: tables.search_gains(rows_of("search")),
    "real size": lambda: real_size(result_of("speed_gpu-0.3.64")["clips"]),
    "scaling": lambda: scaling.summary_table(result_of("scaling_model")),
    "sparse usual": lambda: sparse.usual_table(tables.in_order(rows_of("sparse_quality"))),
    "sparse": lambda: sparse.summary_table(tables.in_order(rows_of("sparse_quality"))),
    "sparse ways": lambda: sparse.ways_table(tables.in_order(rows_of("sparse_quality"))),
    "sparse heads": lambda: sparse.all_heads_table(tables.in_order(rows_of("sparse_quality"))),
    "sparse correlation": lambda: sparse.correlation_table(tables.in_order(rows_of("sparse_quality"))),
    "sparse kept": lambda: sparse.kept_table(tables.in_order(rows_of("sparse_quality"))),
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
