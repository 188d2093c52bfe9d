"""Figures derived from a table's rows: each bundled schedule against the step caches, mode `paper` and the controls.

Plain arithmetic over the rows that `quality.py` writes. Controls are compared at equal cost, by the cost model at real
sizes: a token step computes K and V of all tokens, so at equal tokens it costs more than skipped steps do.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
SAME_COST = 0.01  # of a dense run: a control may cost so much more than the schedule it is compared with


def value_at(points: Iterable[tuple[float, float]], speed: float) -> tuple[float | None, str]:
    """The best figure that `(speed-up, figure)` points give at a speed-up or above, and where it comes from.

    Interpolated between two points, or a better, faster point. Beyond the fastest point, that point itself, although it
    is slower: in its favour.
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


def of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def by_time(rows: Iterable[Row], metric: str = "psnr") -> list[tuple[float, float]]:
    return [(row["speedup"]["total"], row[metric]["mean"]) for row in rows]


def by_time_of_pair(rows: Iterable[Row], pair: int) -> list[tuple[float, float]]:
    return [(row["speedup"]["all"][pair], row["psnr"]["all"][pair]) for row in rows]


def by_tokens(rows: Iterable[Row]) -> list[tuple[float, float]]:
    """Points by computed tokens instead of seconds, which a busy machine does not disturb."""
    return [(1.0 / row["computed_share"], row["psnr"]["mean"]) for row in rows]


def by_cost(rows: Iterable[Row], size: str, reference: Row) -> list[tuple[float, float]]:
    """Points by cost. `reference` was measured on every pair; a row with fewer pairs is compared with it on those."""
    return [(row["cost"][size], reference["psnr"]["mean"] + ahead_of(row, reference)) for row in rows]


def ahead_of(row: Row, other: Row) -> float:
    """Mean difference in PSNR over the pairs that both have."""
    own, theirs = row["psnr"]["all"], other["psnr"]["all"]
    return statistics.fmean(a - b for a, b in zip(own, theirs, strict=False))


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["family"], []).append(row)
    return found


def derive(rows: Sequence[Row]) -> list[Row]:
    """One row for each bundled schedule, by budget; None where the other side was not measured."""
    return [_compare(row, rows) for row in bundled_rows(rows)]


def bundled_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of the bundled schedules, the largest budget first."""
    return sorted(of_kind(rows, "default"), key=lambda row: -row["budget"])


def _compare(row: Row, rows: Sequence[Row]) -> Row:
    quality, speed, share = row["psnr"]["mean"], row["speedup"]["total"], row["computed_share"]
    easycache_rows = of_kind(rows, "EasyCache")
    easycache, how = value_at(by_time(easycache_rows), speed)
    lazycache, _ = value_at(by_time(of_kind(rows, "LazyCache")), speed)
    steadiness, _ = value_at(by_time(easycache_rows, "temporal_psnr"), speed)
    same_tokens, _ = value_at(by_tokens(easycache_rows), 1.0 / share)
    found: Row = {
        "name": row["name"],
        "budget": row["budget"],
        "computed_share": share,
        "psnr": quality,
        "speedup": speed,
        "minus_easycache": _minus(quality, easycache),
        "easycache_how": how,
        "minus_easycache_pairs": _pairs_minus(row, easycache_rows),
        "minus_easycache_same_tokens": _minus(quality, same_tokens),
        "minus_lazycache": _minus(quality, lazycache),
        "minus_easycache_temporal": _minus(row["temporal_psnr"]["mean"], steadiness),
    }
    controls = families(of_kind(rows, "control"))
    for size in row["cost"]:
        levels = {name: at_cost(row, members, size) for name, members in controls.items()}
        known = {name: value for name, value in levels.items() if value is not None}
        best = max(known, key=lambda name: known[name], default=None)
        found[f"minus_paper {size}"] = _minus(quality, _paper(row, controls, size))
        found[f"best_control {size}"] = best
        found[f"minus_best_control {size}"] = None if best is None else quality - known[best]
        found[f"minus_best_control_pairs {size}"] = None if best is None else _pairs_ahead(row, controls[best], size)
    return found


def _pairs_minus(row: Row, cache_rows: Sequence[Row]) -> list[float] | None:
    """The row's lead over a step cache in the same time, pair by pair."""
    if not cache_rows:
        return None
    pairs = zip(row["psnr"]["all"], row["speedup"]["all"], strict=True)
    return [own - value_at(by_time_of_pair(cache_rows, i), speed)[0] for i, (own, speed) in enumerate(pairs)]


def _pairs_ahead(row: Row, members: Sequence[Row], size: str) -> list[float]:
    """The row's lead over a control at the same cost, on each pair where the control has a comparable point."""
    found = []
    for i, own in enumerate(row["psnr"]["all"]):
        points = [(m["cost"][size], m["psnr"]["all"][i]) for m in members if len(m["psnr"]["all"]) > i]
        level = level_at(points, row["cost"][size])
        if level is not None:
            found.append(own - level)
    return found


def _paper(row: Row, controls: dict[str, list[Row]], size: str) -> float | None:
    """PSNR of mode `paper` at the row's cost; if all its points cost more, of the cheapest: in its favour."""
    members = next((members for name, members in controls.items() if "paper" in name), None)
    if members is None:
        return None
    level, cheapest = at_cost(row, members, size), min(members, key=lambda member: member["cost"][size])
    return row["psnr"]["mean"] + ahead_of(cheapest, row) if level is None else level


def at_cost(row: Row, members: Sequence[Row], size: str) -> float | None:
    """A control's PSNR at the row's cost; None if all its points cost more."""
    return level_at(by_cost(members, size, row), row["cost"][size])


def level_at(points: Sequence[tuple[float, float]], cost: float) -> float | None:
    """The best PSNR of `(cost, PSNR)` points at a cost: interpolated, or measured up to SAME_COST above it."""
    near = [quality for other, quality in points if other <= cost + SAME_COST]
    if not near:
        return None
    if min(other for other, _ in points) <= cost:
        between, _ = value_at([(1.0 / other, quality) for other, quality in points], 1.0 / cost)
        near += [] if between is None else [between]
    return max(near)


def _minus(value: float, other: float | None) -> float | None:
    return None if other is None else value - other
