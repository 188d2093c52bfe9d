"""Where else the same number of steps might be computed: placements whose gaps differ near the ends of a run.

How close computed steps should stand at the beginning and at the end is a model's own; in between evenly spread ones
are hard to beat. So a dozen placements hold much of what there is to gain, and a few dozen runs of each tell them
apart, where the best of thousands would be the luckiest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise, product

from ..candidate import Genome

# Widths of the first and of the last gaps beside those in the middle, in the order of the run.
START_WARPS: tuple[tuple[float, ...], ...] = ((), (0.75,), (0.75, 0.75))
END_WARPS: tuple[tuple[float, ...], ...] = ((), (0.5,), (0.75, 0.5))


def step_placements(drawn: Genome) -> tuple[Genome, ...]:
    """Other placements of as many whole steps, the first and the last of them at the same places."""
    path = [step for step, budget in enumerate(drawn.budgets) if budget > 0.0]
    gaps, length = len(path) - 1, path[-1] - path[0]
    if gaps < 2 or length == gaps or not drawn.whole:
        return ()
    found = []
    for start, end in product(START_WARPS, END_WARPS):
        widths = [1.0] * gaps
        for place, width in (*enumerate(start), *enumerate(end, start=gaps - len(end))):
            if 0 <= place < gaps:
                widths[place] *= width
        widths = [width * length / math.fsum(widths) for width in widths]
        found += [_by_places(widths), _by_widths(widths, length)]
    paths = [set(accumulate(each, initial=path[0])) for each in found if sum(each) == length]
    steps = range(len(drawn.budgets))
    placed = (replace(drawn, budgets=tuple(1.0 if step in path else 0.0 for step in steps)) for path in paths)
    return tuple(genome for genome in dict.fromkeys(placed) if genome != drawn)


def _by_places(widths: Sequence[float]) -> list[int]:
    """Whole gaps such that every step is computed as near as can be to where it should be."""
    places, reached = [0], 0.0
    for width in widths:
        reached += width
        places.append(max(places[-1] + 1, int(reached + 0.5)))
    return [b - a for a, b in pairwise(places)]


def _by_widths(widths: Sequence[float], length: int) -> list[int]:
    """Whole gaps as wide as can be to what they should be, wider ones first where they are alike."""
    gaps = [max(1, int(width)) for width in widths]
    while sum(gaps) < length:
        place = max(range(len(gaps)), key=lambda n: (round(widths[n] - gaps[n], 6), -n))
        gaps[place] += 1
    return gaps
