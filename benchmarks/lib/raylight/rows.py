"""The rows of the result, from the measured runs. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..results import spread
from .setting import DENSE

AGREEMENTS = "all_reduce"  # by which Astraea's ranks agree; everything else is raylight's

Runs = dict[tuple[int, str], list[dict[str, Any]]]  # of the sampler, by number of GPUs and way, in order


def run_record(
    seconds: float, traffic: Sequence[dict[str, Any]], formula_bytes: int, report: dict[str, Any]
) -> dict[str, Any]:
    """Return what is kept of one sampler call. traffic: of each rank; report: its line and the calls by kind."""
    return {
        "seconds": seconds,
        "sent_bytes": [sum(size for kind, size in rank["bytes"].items() if kind != AGREEMENTS) for rank in traffic],
        "agreement_bytes": max(rank["bytes"].get(AGREEMENTS, 0) for rank in traffic),
        "collective_seconds": [rank["seconds"] for rank in traffic],
        "formula_bytes": formula_bytes,
        **report,
    }


def rows_of(runs: Runs, predictions: Sequence[dict[str, Any]], layouts: dict[int, str]) -> list[dict[str, Any]]:
    """Return one row by number of GPUs and way that ran. layouts: how so many GPUs divide the work, in words."""
    predicted = {(each["gpus"], each["way"]): each for each in predictions}
    return [
        {
            "gpus": gpus,
            "layout": layouts[gpus],
            "way": way,
            **_speeds(runs, gpus, way),
            "predicted": _predicted(runs, predicted[gpus, way]),
            **_traffic(found),
            "report": found[-1]["report"],
            "devices": found[-1]["devices"],
            "calls": found[-1]["calls"],
            "runs": found,
        }
        for (gpus, way), found in sorted(runs.items(), key=lambda item: list(predicted).index(item[0]))
        if found
    ]


def minutes_of_all(seconds: float, gpus: int, predictions: Sequence[dict[str, Any]], repeats: int) -> float:
    """Return about the minutes of all runs. seconds: of a dense run on so many GPUs."""
    runs = sum(gpus / each["gpus"] / each["over_dense"] for each in predictions)
    return repeats * runs * seconds / 60


def _seconds(runs: Runs, gpus: int, way: str) -> list[float]:
    return [run["seconds"] for run in runs.get((gpus, way), [])]


def _speeds(runs: Runs, gpus: int, way: str) -> dict[str, Any]:
    """Speed-ups over the dense runs: of as many GPUs, each repeat over its own; of one GPU, median over median."""
    own, dense, alone = _seconds(runs, gpus, way), _seconds(runs, gpus, DENSE.name), _seconds(runs, 1, DENSE.name)
    pairs = [one / other for one, other in zip(dense, own, strict=False)]
    return {
        "seconds": spread(own),
        "over_dense": spread(pairs) if pairs else None,
        "over_one": statistics.median(alone) / statistics.median(own) if alone else None,
    }


def _predicted(runs: Runs, prediction: dict[str, Any]) -> dict[str, Any]:
    """The prediction; where it is none over one GPU, it is that of the dense runs as measured, times its own factor."""
    over_one = prediction["over_one"]
    dense, alone = _seconds(runs, prediction["gpus"], DENSE.name), _seconds(runs, 1, DENSE.name)
    if over_one is None and dense and alone and prediction["way"] != DENSE.name:
        over_one = prediction["over_dense"] * statistics.median(alone) / statistics.median(dense)
    return {**prediction, "over_one": over_one}


def _traffic(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Bytes that left each rank, the formula's, and the mean seconds and share of the collectives."""
    in_collectives = [statistics.fmean(run["collective_seconds"]) for run in found]
    sent = sorted({size for run in found for size in run["sent_bytes"]})
    formula = sorted({run["formula_bytes"] for run in found})
    return {
        "sent_bytes": sent,
        "formula_bytes": formula,
        "as_the_formula": sent == formula,
        "agreement_bytes": max(run["agreement_bytes"] for run in found),
        "collective_seconds": statistics.median(in_collectives),
        "collective_share": sum(in_collectives) / sum(run["seconds"] for run in found),
    }
