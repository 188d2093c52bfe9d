"""Other placements of the same number of computed steps, with narrower intervals near the ends of a run.

The best spacing at the beginning and at the end depends on the model; in between, even spacing is hard to beat. So a
dozen placements cover most of the possible gain. A few dozen runs of each tell which is best; the best of thousands
would mostly be lucky.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise, product

from ..problem.candidate import Genome

# Widths of the first and of the last intervals relative to those in the middle, in the order of the run.
START_WARPS: tuple[tuple[float, ...], ...] = ((), (0.75,), (0.75, 0.75))
END_WARPS: tuple[tuple[float, ...], ...] = ((), (0.5,), (0.75, 0.5))


def step_placements(genome: Genome) -> tuple[Genome, ...]:
    """Return other placements of a step-skipping candidate's computed steps; the first and the last of them stay."""
    path = [step for step, budget in enumerate(genome.budgets) if budget > 0.0]
    intervals, length = len(path) - 1, path[-1] - path[0]
    if intervals < 2 or length == intervals or genome.has_partial_steps:
        return ()
    found = []
    for start, end in product(START_WARPS, END_WARPS):
        widths = [1.0] * intervals
        for index, width in (*enumerate(start), *enumerate(end, start=intervals - len(end))):
            if 0 <= index < intervals:
                widths[index] *= width
        widths = [width * length / math.fsum(widths) for width in widths]
        found += [_round_positions(widths), _round_widths(widths, length)]
    paths = [set(accumulate(each, initial=path[0])) for each in found if sum(each) == length]
    steps = range(len(genome.budgets))
    placed = (replace(genome, budgets=tuple(1.0 if step in path else 0.0 for step in steps)) for path in paths)
    return tuple(other for other in dict.fromkeys(placed) if other != genome)


def _round_positions(widths: Sequence[float]) -> list[int]:
    """Return integer intervals that put every computed step as near as possible to its exact position."""
    positions, reached = [0], 0.0
    for width in widths:
        reached += width
        positions.append(max(positions[-1] + 1, int(reached + 0.5)))
    return [b - a for a, b in pairwise(positions)]


def _round_widths(widths: Sequence[float], length: int) -> list[int]:
    """Return integer intervals as near as possible to the exact widths; of equal ones, the first are wider."""
    intervals = [max(1, int(width)) for width in widths]
    while sum(intervals) < length:
        narrowest = max(range(len(intervals)), key=lambda n: (round(widths[n] - intervals[n], 6), -n))
        intervals[narrowest] += 1
    return intervals
