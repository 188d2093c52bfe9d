"""Hand-drawn shapes of schedules, and how one is brought to exactly a budget. Import after the host was started."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from astraea.schedules import Schedule, budgets_for, periodic, warped_skip

EVERY_OTHER = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One hand-made shape. head, tail: full steps it begins and ends with; no pattern: steps that lean (`warped_skip`).

    partial: where the budget does not come to whole steps, this one of those before the last, counted from the end,
    computes what is left; 0: no such step.
    """

    head: int
    pattern: tuple[float, ...] = ()
    warp: float = 0.0
    tail: int = 1
    mode: str = "default"
    partial: int = 0

    @property
    def whole(self) -> bool:
        return set(self.pattern) <= set(EVERY_OTHER) and not self.partial

    @property
    def title(self) -> str:
        if not self.pattern:
            between = f"whole steps leaning {self.warp:g} to where sigma falls"
            rest = f", computed step {self.partial} before the last in part" if self.partial else ""
            return f"{self.head} full, {between}, {self.tail} full{rest} ({self.mode})"
        return f"{self.head} full, then {' '.join(f'{b:g}' for b in self.pattern)} ({self.mode})"


def schedule_of(shape: Shape, budget: float, sigmas: Sequence[float], name: str, **extra: Any) -> Schedule:
    """The shape at exactly the budget; a token pattern is re-placed after its head so as to meet the mean."""
    if not shape.pattern:
        ends = {"full_start": shape.head, "full_end": shape.tail}
        whole = math.ceil(budget * len(sigmas) - 1e-6) / len(sigmas) if shape.partial else budget
        made = warped_skip(name, whole, sigmas, warp=shape.warp, mode=shape.mode, **ends)
        points = list(made.points)
        if shape.partial:
            computed = [i for i, placed in enumerate(made.budgets) if placed]
            step = computed[-1 - shape.partial]
            points[step] = (sigmas[step], 1.0 - (len(computed) - budget * len(sigmas)))
        return dataclasses.replace(made, points=tuple(points), **extra)
    head, steps = shape.head, len(sigmas)
    body = periodic("body", list(shape.pattern), sigmas[head:], full_start=0)
    grid = [*sigmas[head - 1 :], 0.0]
    placed = budgets_for(body, grid, mean=(budget * steps - head + 1.0) / (steps - head + 1))
    budgets = [1.0] * (head - 1) + placed
    return Schedule(name, tuple(zip(sigmas, budgets, strict=True)), mode=shape.mode, **extra)
