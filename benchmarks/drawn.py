"""Hand-drawn shapes of schedules, and how one is brought to exactly a budget. Import after the host was started."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from astraea.schedules import Schedule, budgets_for, leaning, rhythm

EVERY_OTHER = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One hand-made shape. head, tail: full steps it begins and ends with; no pattern: steps that lean (`leaning`)."""

    head: int
    pattern: tuple[float, ...] = ()
    lean: float = 0.0
    tail: int = 1
    mode: str = "default"

    @property
    def whole(self) -> bool:
        return set(self.pattern) <= set(EVERY_OTHER)

    @property
    def title(self) -> str:
        if not self.pattern:
            between = f"whole steps leaning {self.lean:g} to where sigma falls"
            return f"{self.head} full, {between}, {self.tail} full ({self.mode})"
        return f"{self.head} full, then {' '.join(f'{b:g}' for b in self.pattern)} ({self.mode})"


def schedule_of(shape: Shape, budget: float, sigmas: Sequence[float], name: str, **extra: Any) -> Schedule:
    """The shape at exactly the budget; a token pattern is re-placed after its head so as to meet the mean."""
    if not shape.pattern:
        ends = {"full_start": shape.head, "full_end": shape.tail}
        made = leaning(name, budget, sigmas, lean=shape.lean, mode=shape.mode, **ends)
        return dataclasses.replace(made, **extra)
    head, steps = shape.head, len(sigmas)
    body = rhythm("body", list(shape.pattern), sigmas[head:], full_start=0)
    grid = [*sigmas[head - 1 :], 0.0]
    placed = budgets_for(body, grid, mean=(budget * steps - head + 1.0) / (steps - head + 1))
    budgets = [1.0] * (head - 1) + placed
    return Schedule(name, tuple(zip(sigmas, budgets, strict=True)), mode=shape.mode, **extra)
