"""What follows from quality rows: each bundled schedule against EasyCache, mode `paper` and the best control.

Plain arithmetic over the rows that `quality.py` writes.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
SAME_SHARE = 0.01  # a control may compute this much more than the schedule it is compared with
SAME_SPEED = 0.02  # and may be slower by this much: clocks do not tell two such runs apart


def psnr_at(points: list[tuple[float, float]], speed: float) -> tuple[float | None, str]:
    """The best PSNR that `(speed-up, PSNR)` points give at no less than a speed-up, and how that was told.

    Between two points it is interpolated; a faster point that is better serves instead. Beyond the fastest point that
    point itself is taken, although it is slower: in its favour.
    """
    points = sorted(points)
    if not points:
        return None, "none measured"
    faster = [point for point in points if point[0] >= speed]
    if not faster:
        return points[-1][1], "beyond its fastest: taken there"
    best = max(quality for _, quality in faster)
    slower = [point for point in points if point[0] < speed]
    if slower:
        (low, low_quality), (high, high_quality) = slower[-1], faster[0]
        between = low_quality + (high_quality - low_quality) * (speed - low) / (high - low)
        if between > best:
            return between, "interpolated"
    return best, "a point at least as fast"


def by_time(rows: list[Row]) -> list[tuple[float, float]]:
    return [(row["speedup"]["total"], row["psnr"]["mean"]) for row in rows]


def by_tokens(rows: list[Row]) -> list[tuple[float, float]]:
    """As if every token cost the same: free of what disturbs a clock."""
    return [(1.0 / row["computed_share"], row["psnr"]["mean"]) for row in rows]


def derive(rows: list[Row]) -> list[Row]:
    """One row for each bundled schedule and guidance; a comparison that lacks its partner is None."""
    return [
        _compare(row, [other for other in rows if other["cfg"] == row["cfg"]])
        for row in rows
        if row["kind"] == "default"
    ]


def _compare(row: Row, rows: list[Row]) -> Row:
    quality, speed, share = row["psnr"]["mean"], row["speedup"]["total"], row["computed_share"]
    controls = [other for other in rows if other["kind"] == "control"]
    paper = [other for other in controls if "paper" in other["name"] and other["budget"] == row["budget"]]
    at_tokens = [other for other in controls if other["computed_share"] <= share + SAME_SHARE]
    best = max(at_tokens, key=lambda other: other["psnr"]["mean"], default=None)
    easycache_rows = [other for other in rows if other["kind"] == "easycache"]
    easycache, how = psnr_at(by_time(easycache_rows), speed)
    same_tokens, tokens_how = psnr_at(by_tokens(easycache_rows), 1.0 / share)
    as_fast = max((psnr for at, psnr in by_time(controls) if at >= speed * (1.0 - SAME_SPEED)), default=None)
    return {
        "cfg": row["cfg"],
        "name": row["name"],
        "budget": row["budget"],
        "computed_share": share,
        "psnr": quality,
        "speedup": speed,
        "easycache_at_same_time": easycache,
        "easycache_how": how,
        "minus_easycache": None if easycache is None else quality - easycache,
        "minus_easycache_same_tokens": None if same_tokens is None else quality - same_tokens,
        "easycache_same_tokens_how": tokens_how,
        "minus_paper": quality - paper[0]["psnr"]["mean"] if paper else None,
        "best_control": best["name"] if best else None,
        "minus_best_control": quality - best["psnr"]["mean"] if best else None,
        "minus_best_control_as_fast": None if as_fast is None else quality - as_fast,
    }
