"""The Markdown page of a measurement on several GPUs, made from its result. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..markdown import heading, table
from .predict import BY_MODEL
from .setting import DENSE, LABELS, in_words

TITLE = "One video over several GPUs"
HOW = """
A run is a call of raylight's sampler, in seconds; {repeats} of each way after a short one to warm up, the ways in turn,
every other time backwards. *Over dense*: of as many GPUs, median of the paired ratios (min…max). *Over one GPU*: the
dense run there, median over median. *Predicted*, over one GPU: before the measurement by the
[model of scaling](scaling_model.md) where it has this machine, model and clip; else the dense speed-up as measured,
times what counting multiplications gives.
"""
SENT = """
*Sent* is what left each GPU in a run, *by the formula* what [sent.py](../lib/raylight/sent.py) counts for the steps
that ran, *expected* what it counted for the plan beforehand. Astraea's own agreements, {agreements} at most, are not
among them. *In collectives* is the mean over the GPUs of the time that they spent sending, receiving and waiting for
one another; of a ring, which sends while it computes, the waiting alone.
"""


def size(number: float) -> str:
    """Bytes with a unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3f} {unit}"
    return f"{number:.0f} B"


def scaling_measured_markdown(result: dict[str, Any]) -> str:
    setting, environment, rows = result["setting"], result["environment"], result["rows"]
    devices = result["machine"]["gpus"]
    text = heading(TITLE, environment)
    text += (
        f"{len(devices)} × {devices[0]}; " if devices else "**A trial on the CPU: its seconds mean nothing.** "
    ) + versions(result["machine"])
    text += (
        f"\n\n{setting['model']}; {setting['clip']}, {setting['tokens']} tokens; {setting['steps']} steps, "
        f"cfg {setting['cfg']:g}; attention over several GPUs: {setting['attention']}.\n"
    )
    text += HOW.format(repeats=setting["repeats"])
    if not result["finished"]:
        text += "\n**Not finished: fewer runs were made.**\n"
    text += f"\n{speed_table(rows)}" if rows else "\nNothing was measured.\n"
    if several := [row for row in rows if row["gpus"] > 1]:
        agreements = size(max(row["agreement_bytes"] for row in several))
        text += SENT.format(agreements=agreements) + f"\n{traffic_table(several)}"
    text += left_out(result["left_out"]) + close_runs(result["dense_psnr"]) + reports(rows)
    if links := result["machine"].get("links"):
        text += f"\n## Links\n\n```\n{links}\n```\n"
    return text


def versions(machine: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version) + "."


def median(figures: dict[str, Any]) -> str:
    """The median, of several figures with minimum and maximum."""
    several = f" ({figures['min']:.2f}…{figures['max']:.2f})" if len(figures["all"]) > 1 else ""
    return f"{figures['median']:.2f}{several}"


def label(row: dict[str, Any]) -> str:
    """The way; said, too, where Astraea had to do without token steps: the report says why."""
    without = row["way"].startswith("tokens") and not row["calls"].get("token")
    return LABELS[row["way"]] + " (ran as whole steps)" * without


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        is_dense = row["way"] == DENSE.name
        over_dense = None if is_dense or row["over_dense"] is None else median(row["over_dense"])
        predicted = row["predicted"]["over_one"]
        is_baseline = is_dense and row["gpus"] == 1
        over_one = None if is_baseline or row["over_one"] is None else row["over_one"]
        said = None if is_baseline or predicted is None else predicted
        by = row["predicted"]["by"] if said is not None else None
        lines.append([row["gpus"], row["layout"], label(row), median(row["seconds"]), over_dense, over_one, said, by])
    header = ["GPUs", "how", "way", "seconds", "over dense", "over one GPU", "predicted", "by"]
    return table(header, lines)


def traffic_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        sent, formula = ("…".join(map(size, sorted({min(found), max(found)}))) for found in _both(row))
        lines.append([
            row["gpus"], row["layout"], label(row), sent,
            "equal" if row["as_the_formula"] else formula, size(row["predicted"]["sent_bytes"]),
            f"{row['collective_seconds']:.2f} s", f"{row['collective_share']:.1%}",
        ])  # fmt: skip
    header = ["GPUs", "how", "way", "sent", "by the formula", "expected", "in collectives", "share of the run"]
    return table(header, lines)


def _both(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    return row["sent_bytes"], row["formula_bytes"]


def prediction_table(predictions: Sequence[dict[str, Any]]) -> str:
    """Text of the predictions, printed before anything is measured."""
    lines = []
    for each in predictions:
        factor = None if each["way"] == DENSE.name else f"{each['over_dense']:.2f}"
        if each["by"] == BY_MODEL:
            over_one = f"{each['over_one']:.2f}"
        elif each["gpus"] == 1:
            over_one = factor
        else:
            over_one = "as measured" if factor is None else f"{factor} × dense"
        sent = size(each["sent_bytes"]) if each["gpus"] > 1 else None
        lines.append([each["gpus"], LABELS[each["way"]], sent, factor, over_one, each["by"]])
    return table(["GPUs", "way", "sent per GPU", "over dense", "over one GPU", "by"], lines)


def left_out(reasons: Sequence[dict[str, Any]]) -> str:
    lines = [f"* {in_words(each['gpus'])}: {each['reason']}." for each in reasons]
    return "\nLeft out:\n\n" + "\n".join(lines) + "\n" if lines else ""


def close_runs(psnr: dict[str, float | None]) -> str:
    """PSNR of the dense runs of several GPUs against that of one."""
    found = [f"{gpus} GPUs {'equal' if value is None else f'{value:.0f} dB'}" for gpus, value in psnr.items()]
    return f"\nDense latents against those of one GPU: {', '.join(found)}.\n" if found else ""


def reports(rows: Sequence[dict[str, Any]]) -> str:
    """The report of the last run of each way."""
    lines = [f"* {row['devices'] or '1 GPU'}, {LABELS[row['way']]}: {row['report']}" for row in rows if row["report"]]
    return "\n## Reports\n\n" + "\n".join(lines) + "\n" if lines else ""
