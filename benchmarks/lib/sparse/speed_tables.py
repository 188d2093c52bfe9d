"""Predictions, arithmetic and Markdown tables of the speed of sparse attention. Standard library only.

Linearity is `t(d) / (d · t(1))` of one backend, d as whole tiles allow it; all ratios are medians of the ratios within
a round, where the two were timed right after each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..attention.tables import attention_heading, number, paired_ratio, percent
from ..markdown import table

Row = dict[str, Any]
DENSE, LISTS, SELECTION, PROBE = "dense", "lists", "selection", "probe"  # kinds of rows
MIXED, RASTER = "mixed", "raster"  # orders of the heads
ALL_BUT_ONE = 0.98  # density at which of 64 tiles one is left out
PROBE_EVERY = 4  # sparse steps in longer runs: what a choice costs is divided among so many
TARGETS = {"linearity": 1.10, "selection": 0.03, "probe": 0.01}  # at the most, on a GPU
CPU_TARGETS = {"linearity": 1.15}

# Written down before anything was measured. "attention": times faster than the fastest dense kernel, by head size and
# density. On an H200 the own kernel's dense rate was 0.62 of the best dense one's for heads of 128, 0.98 for heads of
# 64; 5 % go to reading through lists and orders: 0.62 · 0.95 / 0.2 = 2.9. "block" and "model": a step of which
# self-attention alone is sparse. It is 0.55 of a 1.3B step at 32,760 tokens, 0.44 of a 14B one and, at 75,600, 0.64;
# with attention 1.95 times as fast, 1 / (1 − 0.55 · (1 − 1 / 1.95)) = 1.37.
PREDICTIONS: dict[str, Row] = {
    "h200": {
        "attention": {"128": {"0.2": 2.9, "0.3": 1.95, "0.5": 1.18}, "64": {"0.2": 4.6, "0.3": 3.1, "0.5": 1.9}},
        "block": {"Wan 2.1 1.3B": 1.37, "Wan 2.1 14B": 1.27, "Wan 2.1 14B, 720p": 1.45},
        "model": {"0.3": 1.37, "0.5": 1.09},
    },
    # Against flash-attn 2, which the own kernel equals there but for the 5 % and the selection.
    "4090": {"attention": {"128": {"0.2": 4.3, "0.3": 2.9, "0.5": 1.75}}, "block": {}, "model": {}},
}


def predictions_for(device: str | None) -> Row:
    """The predictions and targets for a GPU by its name, for the CPU without one."""
    wanted = "cpu" if device is None else device.lower()
    found = next((own for name, own in PREDICTIONS.items() if name in wanted), {})
    return {"attention": {}, "block": {}, "model": {}} | found | {"targets": TARGETS if device else CPU_TARGETS}


def linearity(row: Row, whole: Row) -> float | None:
    """t(d) / (d · t(1)); whole: the same with all tiles, or nearly all."""
    ratio = paired_ratio(row, whole)
    return None if ratio is None else ratio * whole["real_density"] / row["real_density"]


def fastest_dense(shape: Row) -> Row | None:
    """The fastest dense row: that of the dispatcher's choice, or of torch's own attention."""
    return min((row for row in shape["rows"] if row["kind"] == DENSE), key=lambda row: row["ms"], default=None)


def derive_shape(shape: Row, predictions: Row) -> None:
    """Writes speed-up, prediction and linearity, or the share of dense attention, into a shape's rows."""
    dense = fastest_dense(shape)
    predicted = predictions["attention"].get(str(shape["head_dim"]), {})
    for row in shape["rows"]:
        row["to_dense"] = None if dense is None else paired_ratio(row, dense)
        if row["kind"] == LISTS:
            row["speedup"] = None if dense is None else paired_ratio(dense, row)
            row["predicted"] = predicted.get(f"{row['density']:g}")
            whole = _whole(shape["rows"], row)
            row["linearity"] = None if whole is None else linearity(row, whole)
        elif row["kind"] == PROBE and row["to_dense"] is not None:
            row["to_dense"] /= PROBE_EVERY


def _whole(rows: Sequence[Row], row: Row) -> Row | None:
    """The row of the same backend and orders with all tiles, or with all but one: a CPU reads all without copying."""
    own = [r for r in rows if (r["kind"], r["entrant"], r["orders"]) == (LISTS, row["entrant"], row["orders"])]
    by_density = {r["density"]: r for r in own}
    return by_density.get(ALL_BUT_ONE, by_density.get(1.0))


def derive_block(block: Row, predictions: Row) -> None:
    """Writes the speed-up and its prediction into a block."""
    dense, sparse = (next((r for r in block["rows"] if r["kind"] == kind), None) for kind in (DENSE, LISTS))
    block["speedup"] = None if dense is None or sparse is None else paired_ratio(dense, sparse)
    block["predicted"] = predictions["block"].get(block["label"])


def derive_model(model: Row, predictions: Row) -> None:
    """Writes the speed-up over the mean of the dense runs, and its prediction, into the runs of a model."""
    dense = [row["seconds"] for row in model["rows"] if row["density"] == 1.0]
    for row in model["rows"]:
        row["speedup"] = sum(dense) / len(dense) / row["seconds"] if dense else None
        row["predicted"] = predictions["model"].get(f"{row['density']:g}")


# --- Markdown ---------------------------------------------------------------------------------------------------------


def sparse_speed_markdown(result: Row) -> str:
    title = "Speed of sparse attention" + (", on a CPU" if result["benchmark"] == "sparse_speed_cpu" else "")
    text = attention_heading(title, result["environment"]) + "How to read this: benchmarks/README.md.\n\n"
    text += _predictions_text(result["predictions"])
    for shape in result.get("shapes", []):
        text += f"\n## Attention over lists, {shape['label']}\n\n" + _shape_text(shape)
    if result.get("blocks"):
        text += "\n## A whole block, per call\n\n" + _blocks_table(result["blocks"])
    if result.get("model"):
        text += "\n## A whole model, per call\n\n" + _model_text(result["model"])
    if result.get("left_out"):
        text += "\n## Left out\n\n" + "".join(f"* {name}: {why}\n" for name, why in result["left_out"].items())
    return text


def _predictions_text(predictions: Row) -> str:
    lines: list[list[Any]] = [
        [f"attention, heads of {dim}, density {density}", f"{times:.2f} times as fast as dense"]
        for dim, by_density in predictions["attention"].items()
        for density, times in by_density.items()
    ]
    lines += [[f"block of {label}, density 0.3", f"{times:.2f}"] for label, times in predictions["block"].items()]
    lines += [[f"model call, density {density}", f"{times:.2f}"] for density, times in predictions["model"].items()]
    for what, most in predictions["targets"].items():
        lines.append(
            [f"{what}, at the most", f"{most:.2f}" if what == "linearity" else f"{most:.0%} of dense attention"]
        )
    return "## Predicted, before anything was measured\n\n" + table(["", "predicted"], lines)


def _shape_text(shape: Row) -> str:
    dense = fastest_dense(shape)
    lines: list[list[Any]] = []
    for row in (row for row in shape["rows"] if row["kind"] in (DENSE, LISTS)):
        mark = "" if row["exact"] else " (approximate)"
        line = [row["entrant"] + mark, row["orders"], f"{row['density']:g}", number(row["ms"], ".4g")]
        line += [len(row["ms_by_round"])]
        if row["kind"] == DENSE:
            line += [number(1.0 / row["to_dense"]) if row["to_dense"] else None, None, None]
        else:
            line += [number(row["speedup"]), number(row["predicted"]), number(row["linearity"], ".3f")]
        lines.append(line)
    text = table(["", "orders", "density", "ms", "rounds", "times as fast as dense", "predicted", "linearity"], lines)
    extras = [
        [
            "selection" if row["kind"] == SELECTION else f"choice of the heads' ways, a {PROBE_EVERY}th of it",
            f"{row['density']:g}",
            number(row["ms"] / (PROBE_EVERY if row["kind"] == PROBE else 1), ".4g"),
            percent(row["to_dense"]) if (row["to_dense"] or 0.0) > 0.1 else _fine_percent(row["to_dense"]),
        ]
        for row in shape["rows"]
        if row["kind"] in (SELECTION, PROBE)
    ]
    if extras:
        text += "\n" + table(["per sparse call", "density", "ms", "of dense attention"], extras)
    if dense is not None:
        text += (
            f"\nDense is `{dense['entrant']}`, the fastest. Lists go to `{shape['lists_choice']}` by the dispatcher.\n"
        )
    reasons = [f"* `{name}`: {why.rstrip('.')}.\n" for name, why in shape.get("failures", {}).items()]
    return text + ("\n" if reasons else "") + "".join(reasons)


def _fine_percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _blocks_table(blocks: Sequence[Row]) -> str:
    lines = []
    for block in blocks:
        dense, sparse = (next((r for r in block["rows"] if r["kind"] == kind), None) for kind in (DENSE, LISTS))
        milliseconds = [None if row is None else number(row["ms"], ".4g") for row in (dense, sparse)]
        line = [block["label"], block["tokens"], block["dtype"], *milliseconds, number(block["speedup"])]
        lines.append([*line, number(block["predicted"])])
    header = ["", "tokens", "dtype", "dense, ms", f"density {blocks[0]['density']:g}, ms"]
    return table([*header, "times as fast", "predicted"], lines)


def _model_text(model: Row) -> str:
    lines = [
        [
            row["name"],
            number(row["seconds"], ".4f"),
            number(row.get("seconds_without_choice"), ".4f"),
            number(row["speedup"]),
            number(row["predicted"]),
            number(row["peak_gib"]),
            number(row.get("computed_share")),
        ]
        for row in model["rows"]
    ]
    header = ["", "seconds per call", "of calls that choose nothing", "times as fast", "predicted", "peak GiB"]
    text = f"{model['description']}; {model['frames']} frames, {model['tokens']} tokens, {model['steps']} steps.\n\n"
    return text + table([*header, "computed tiles"], lines)


WRITERS = {"sparse_speed": sparse_speed_markdown, "sparse_speed_cpu": sparse_speed_markdown}
