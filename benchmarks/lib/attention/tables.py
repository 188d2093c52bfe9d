"""Arithmetic and Markdown tables of the attention benchmark. Standard library only.

Linearity is `t(M) / (M/N · t(N))`; ratios to other backends are of times at the same rows. Both are medians of the
ratios within a round, where the two were timed right after each other.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..markdown import table

Row = dict[str, Any]
SDPA = "torch SDPA"
DENSE, ROWS = "dense, eager", "rows, eager"  # of a block


def operations(queries: int, tokens: int, heads: int, head_dim: int) -> float:
    """Floating-point operations of the two products of one attention call."""
    return 4.0 * queries * tokens * heads * head_dim


def teraflops(operations_: float, milliseconds: float) -> float:
    return operations_ / milliseconds / 1e9


def paired_ratio(over: Row, under: Row) -> float | None:
    """Median over the rounds that both rows were timed in of the first's time over the second's."""
    first, second = over["ms_by_round"], under["ms_by_round"]
    ratios = [first[number] / second[number] for number in first if number in second]
    return statistics.median(ratios) if ratios else None


def linearity(row: Row, whole: Row) -> float | None:
    """t(M) / (M/N · t(N)); whole: the same with all queries."""
    ratio = paired_ratio(row, whole)
    return None if ratio is None else ratio * whole["queries"] / row["queries"]


def find(rows: Sequence[Row], entrant: str, need_lse: bool, share: float) -> Row | None:
    wanted = (entrant, need_lse, share)
    return next((row for row in rows if (row["entrant"], row["need_lse"], row["share"]) == wanted), None)


def best_dense(shape: Row) -> Row | None:
    """The fastest exact backend with all queries, without log-sum-exp."""
    counted = [r for r in shape["rows"] if r["share"] == 1.0 and not r["need_lse"] and r["exact"]]
    return min(counted, key=lambda row: row["ms"], default=None)


def derive_shape(shape: Row, matmul_teraflops: float | None) -> None:
    """Writes TFLOP/s, share of the ceiling, ratio to the best dense backend and linearity into a shape's rows.

    The ratio compares rates: (M/N · t of the best at M = N) / t(M). 1: the rate of the best dense call.
    """
    best = best_dense(shape)
    for row in shape["rows"]:
        done = operations(row["queries"], shape["tokens"], shape["heads"], shape["head_dim"])
        row["teraflops"] = teraflops(done, row["ms"])
        row["of_ceiling"] = row["teraflops"] / matmul_teraflops if matmul_teraflops else None
        row["ratio"] = None if best is None else row["queries"] / best["queries"] * best["ms"] / row["ms"]
        whole = find(shape["rows"], row["entrant"], row["need_lse"], 1.0)
        row["linearity"] = None if whole is None else linearity(row, whole)
    for key, need_lse in (("without", False), ("with", True)):
        if (choice := shape.get("choices", {}).get(key)) is not None:
            choice["to_fastest"] = _choice_to_fastest(shape["rows"], choice["backend"], need_lse)


def _choice_to_fastest(rows: Sequence[Row], name: str, need_lse: bool) -> dict[str, float]:
    """By M/N: time of the chosen backend over the fastest exact one; 1 is the right choice."""
    found = {}
    for share in sorted({row["share"] for row in rows}):
        own = find(rows, name, need_lse, share)
        exact = [r["ms"] for r in rows if (r["need_lse"], r["share"]) == (need_lse, share) and r["exact"]]
        if own is not None:
            found[f"{share:g}"] = own["ms"] / min([*exact, own["ms"]])
    return found


def derive_cpu_shape(shape: Row) -> None:
    """Writes GFLOP/s, linearity and the ratio of time to torch's SDPA into the rows of the CPU's benchmark."""
    for row in shape["rows"]:
        done = operations(row["queries"], shape["tokens"], shape["heads"], shape["head_dim"])
        row["gigaflops"] = 1000.0 * teraflops(done, row["ms"])
        whole = find(shape["rows"], row["entrant"], row["need_lse"], 1.0)
        row["linearity"] = None if whole is None else linearity(row, whole)
        sdpa = find(shape["rows"], SDPA, False, row["share"])
        row["to_sdpa"] = None if sdpa is None else paired_ratio(row, sdpa)


def percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def number(value: float | None, style: str = ".2f") -> str | None:
    return None if value is None else format(value, style)


def attention_heading(title: str, environment: dict[str, Any]) -> str:
    e = environment
    device = e["gpu"] or f"{e['cpu']}, {e['threads']} threads, load {e['load_at_start']} at the start"
    return (
        f"# {title}\n\n{device}; {e['versions']}, Python {e['python']}; commit `{e['commit'][:12]}`, seed {e['seed']}, "
        f"{e['date']}.\n\n    {e['command']}\n\n"
    )


def attention_markdown(result: dict[str, Any]) -> str:
    text = attention_heading("Attention on selected rows", result["environment"])
    text += "How to read this: benchmarks/README.md.\n\n" + _ceilings_table(result)
    if result.get("correctness"):
        text += "\n## Correctness: error against double precision\n\n" + _correctness_table(result["correctness"])
    listed: dict[str, str] = {}
    for shape in result.get("shapes", []):
        absent = {name: why for name, why in shape["unavailable"].items() if listed.get(name) != why}
        listed |= absent
        text += f"\n## Attention, {shape['label']}\n\n" + _shape_text(shape, absent)
    for block in result.get("blocks", []):
        text += f"\n## A whole block: {block['label']}, {block['tokens']} tokens, {block['dtype']}\n\n"
        text += _block_table(block)
    if result.get("left_out"):
        text += "\n## Left out\n\n" + "".join(f"* {name}: {why}\n" for name, why in result["left_out"].items())
    return text


def _ceilings_table(result: dict[str, Any]) -> str:
    found = result.get("ceilings")
    if found is None:
        return ""
    lines = [
        [f"matrix product {found['matmul']}, TFLOP/s", number(found["matmul_teraflops"], ".3g")],
        [f"copy of {found['copy']}, GB/s read and written", number(found["copy_gigabytes"], ".4g")],
    ]
    if "matmul_teraflops_at_end" in found:
        lines.append(["the same product at the end", number(found["matmul_teraflops_at_end"], ".3g")])
    return "## Ceilings\n\n" + table(["", "measured"], lines)


def _correctness_table(rows: Sequence[Row]) -> str:
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["errors"]))
    header = ["", "dtype", "D", *(f"{kind}, relative" for kind in kinds), "allowed", "log-sum-exp, absolute"]
    lines = []
    for row in rows:
        errors = [number(row["errors"].get(kind), ".1e") for kind in kinds]
        verdict = "; ".join(row["reasons"][:2]) or "accurate, and the same bits twice"
        line = [row["backend"], row["dtype"], row["head_dim"], *errors, number(row["owed"], ".0e")]
        lines.append([*line, number(row["lse_error"], ".1e"), verdict])
    return table([*header, "verdict"], lines)


def _shape_text(shape: Row, absent: dict[str, str]) -> str:
    header = ["", "log-sum-exp", "M/N", "M", "ms", "rounds", "TFLOP/s", "of the matmul ceiling"]
    header += ["ratio to the best dense", "linearity"]
    chosen = {(c["backend"], key == "with") for key, c in shape.get("choices", {}).items()}
    lines = []
    for row in sorted(shape["rows"], key=lambda r: (r["need_lse"], r["entrant"], r["share"])):
        marks = "\\*" if (row["entrant"], row["need_lse"]) in chosen else ""
        marks += "" if row["exact"] else " (approximate)"
        line = [row["entrant"] + marks, "with" if row["need_lse"] else "without", f"{row['share']:g}", row["queries"]]
        line += [number(row["ms"], ".4g"), len(row["ms_by_round"]), number(row["teraflops"], ".4g")]
        lines.append([*line, percent(row["of_ceiling"]), number(row["ratio"]), number(row["linearity"], ".3f")])
    text = table(header, lines)
    for key, choice in shape.get("choices", {}).items():
        ratios = ", ".join(f"{value:.2f} at {share}" for share, value in choice.get("to_fastest", {}).items())
        text += f"\n\\* The dispatcher's choice {key} log-sum-exp: `{choice['backend']}`, {choice['why']}; "
        text += f"its time over the fastest exact backend's, by M/N: {ratios}.\n"
    reasons = [f"* `{name}`: {why.rstrip('.')}.\n" for name, why in (absent | shape.get("failures", {})).items()]
    return text + ("\n" if reasons else "") + "".join(reasons)


def _block_table(block: Row) -> str:
    dense = next((row for row in block["rows"] if row["entrant"] == DENSE), None)
    lines = []
    for row in (row for row in block["rows"] if row["entrant"] == ROWS and dense is not None):
        share = paired_ratio(row, dense)
        line = [f"{row['share']:g}", row["queries"], number(row["ms"], ".4g"), number(dense["ms"], ".4g")]
        line += [number(share, ".3f"), number(row["cost"], ".3f"), number(share and share / row["cost"])]
        lines.append(line)
    header = ["M/N", "M", "ms", "dense, ms", "share of dense", "share by counting", "measured over counted"]
    text = table(header, lines) + "\nAll rows selected against the dense block: relative difference "
    text += f"{number(block['difference'], '.1e') or 'not finite'}.\n"
    return text + "".join(f"\n{name}: {why}.\n" for name, why in block.get("failures", {}).items())


def attention_cpu_markdown(result: dict[str, Any]) -> str:
    text = attention_heading("Attention on selected rows, on a CPU", result["environment"])
    text += (
        "Linearity: t(M) / (M/N · t(N)). Ratio: time over that of torch's `scaled_dot_product_attention` on the same "
        "rows, below 1 is faster. Both are medians of the ratios within a round.\n"
    )
    header = ["", "log-sum-exp", "M/N", "M", "ms", "GFLOP/s", "linearity", "ratio to SDPA"]
    for shape in result["shapes"]:
        rounds = max((len(row["ms_by_round"]) for row in shape["rows"]), default=0)
        text += f"\n## {shape['label']}: {rounds} rounds\n\n"
        text += table(header, [_cpu_cells(row) for row in shape["rows"]])
        text += "".join(f"\n{name}: {why}.\n" for name, why in shape.get("failures", {}).items())
    if result.get("left_out"):
        text += "\n## Left out\n\n" + "".join(f"* {name}: {why}\n" for name, why in result["left_out"].items())
    return text


def _cpu_cells(row: Row) -> list[Any]:
    is_ours = row["entrant"] != SDPA
    line = [row["entrant"], ("with" if row["need_lse"] else "without") if is_ours else None, f"{row['share']:g}"]
    line += [row["queries"], number(row["ms"], ".4g"), number(row["gigaflops"], ".4g"), number(row["linearity"], ".3f")]
    return [*line, number(row["to_sdpa"]) if is_ours else None]


WRITERS = {"attention": attention_markdown, "attention_cpu": attention_cpu_markdown}
