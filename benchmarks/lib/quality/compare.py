"""Comparison of `auto` with all else in a row of `quality.json`. Standard library only.

A row has points: a contestant at one number of calls, or threshold, with its PSNR and flicker per pair (dB to the dense
run), the computed share of the dense run's tokens, and its speed-up.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Point = dict[str, Any]
AUTO, FEWER, EASYCACHE, PAPER = "auto", "fewer dense steps", "EasyCache", "paper's mode"
NO_CONTROL = (AUTO, EASYCACHE)
ALL_COMPUTED = 150.0  # dB; a clip this close to the dense run's had no step skipped


def value_at(points: Sequence[tuple[float, float]], speed: float) -> float | None:
    """The best figure that `(speed, figure)` points have at a speed or above, or that lies between two of them.

    Beyond the fastest point, that point itself, although it is slower: in its favour.
    """
    points = sorted(points)
    if not points:
        return None
    faster = [point for point in points if point[0] >= speed - 1e-6]
    if not faster:
        return points[-1][1]
    best = max(figure for _, figure in faster)
    slower = [point for point in points if point[0] < speed - 1e-6]
    if slower:
        (low, low_figure), (high, high_figure) = slower[-1], faster[0]
        best = max(best, low_figure + (high_figure - low_figure) * (speed - low) / (high - low))
    return best


def of_family(row: dict[str, Any], family: str) -> list[Point]:
    return [point for point in row["points"] if point["family"] == family]


def at_calls(row: dict[str, Any], family: str, calls: float) -> Point | None:
    return next((point for point in of_family(row, family) if point["setting"] == calls), None)


def best_control(row: dict[str, Any], calls: float) -> Point:
    """The control of the highest PSNR at as many calls."""
    controls = [p for p in row["points"] if p["family"] not in NO_CONTROL and p["setting"] == calls]
    return max(controls, key=lambda point: point["psnr"]["mean"])


def easycache_at(row: dict[str, Any], point: Point, metric: str, along: str) -> float | None:
    """EasyCache's figure at a point's computed share (`along` "share") or speed-up ("speedup").

    Thresholds at which it skipped nothing in some pair are left out: their mean does not tell what skipping costs.
    """

    def speed(each: Point) -> float:
        return 1.0 / each["share"] if along == "share" else each["speedup"]["total"]

    skipping = [p for p in of_family(row, EASYCACHE) if p["psnr"]["max"] < ALL_COMPUTED]
    return value_at([(speed(p), p[metric]["mean"]) for p in skipping], speed(point))


def ahead(point: Point, other: Point, metric: str = "psnr") -> list[float]:
    """Lead in dB, pair by pair."""
    return [a - b for a, b in zip(point[metric]["all"], other[metric]["all"], strict=True)]


def compared(row: dict[str, Any], calls: float) -> dict[str, Any]:
    """The figures of `auto` at a number of calls and its leads, in dB."""
    point, best = at_calls(row, AUTO, calls), best_control(row, calls)
    assert point is not None
    psnr, flicker = point["psnr"]["mean"], point["temporal_psnr"]["mean"]
    found: dict[str, Any] = {"calls": calls, "psnr": psnr, "flicker": flicker, "speedup": point["speedup"]["total"]}
    found["seconds"] = row["dense_seconds"] / found["speedup"]
    for key, metric, along in (
        ("easycache", "psnr", "share"), ("easycache_time", "psnr", "speedup"),
        ("easycache_flicker", "temporal_psnr", "share"),
    ):  # fmt: skip
        other = easycache_at(row, point, metric, along)
        found[key] = None if other is None else point[metric]["mean"] - other
    fewer = at_calls(row, FEWER, calls)
    found["fewer"] = None if fewer is None else statistics.fmean(ahead(point, fewer))
    found["fewer_flicker"] = None if fewer is None else statistics.fmean(ahead(point, fewer, "temporal_psnr"))
    paper = at_calls(row, PAPER, calls)
    found["paper"] = None if paper is None else statistics.fmean(ahead(point, paper))
    found["best"], found["best_control"] = statistics.fmean(ahead(point, best)), best["family"]
    return found
