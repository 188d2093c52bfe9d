"""What `quality.py` compares: ways to sample in less time. Import after the host has been started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from astraea.schedules import Schedule, place_evenly
from astraea.schedules.placement import SamplerSteps

from ..host.harness import accelerated
from .models import Part, Row
from .step_caches import easycache

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0)
AUTO, FEWER, EASYCACHE, PAPER = "auto", "fewer dense steps", "EasyCache", "paper's mode"
EVEN, HELD, TOKENS = "whole steps, even", "whole steps, even, held", "tokens, evenly spent"
CONTROLS = (EVEN, HELD, TOKENS, PAPER, FEWER)


@dataclass(frozen=True)
class Contestant:
    """A way to sample. setting: calls of the model or a threshold; reports: what tells the computed share, by part."""

    family: str
    setting: float
    parts: tuple[Part, ...]
    reports: tuple[Any, ...] = ()

    def share(self, dense_steps: int) -> float:
        """Computed share of the tokens of a dense run."""
        if not self.reports:
            return sum(part.steps for part in self.parts) / dense_steps
        steps = [part.steps for part in self.parts]
        total = sum(report.last.computed_share * own for report, own in zip(self.reports, steps, strict=True))
        return total / sum(steps)


def contestants(row: Row) -> Iterator[Contestant]:
    """All of a row's contestants: each family by calls, EasyCache by thresholds."""
    steps = row.setting.steps
    for calls in row.setting.calls:
        budget = calls / steps
        yield scheduled(row, AUTO, calls, lambda part: None, budget)
        yield scheduled(row, EVEN, calls, even(budget))
        yield scheduled(row, HELD, calls, even(budget, "hold"))
        yield scheduled(row, TOKENS, calls, lambda part, b=budget: tokens(part, b, "default"))
        yield scheduled(row, PAPER, calls, lambda part, b=budget: tokens(part, b, "paper"))
        yield Contestant(FEWER, calls, row.in_steps(calls))
    for threshold in THRESHOLDS:
        built = [easycache(part.model, threshold) for part in row.parts]
        models, reports = zip(*built, strict=True)
        yield Contestant(EASYCACHE, threshold, row.with_models(models), reports)


def scheduled(
    row: Row, family: str, calls: int, make: Callable[[Part], Schedule | None], budget: float | None = None
) -> Contestant:
    """Every part under its own schedule; budget: asked for, as a user does, or None: the schedule's own."""
    built = [accelerated(part.model, make(part), budget=budget) for part in row.parts]
    models, reports = zip(*built, strict=True)
    return Contestant(family, calls, row.with_models(models), reports)


def even(budget: float, mode: str = "default") -> Callable[[Part], Schedule]:
    """Whole steps at even intervals."""

    def make(part: Part) -> Schedule:
        placed = place_evenly(SamplerSteps.of_euler(part.levels), budget * part.steps + 1e-6)
        return exactly(part, [float(computed) for computed in placed], mode)

    return make


def tokens(part: Part, budget: float, mode: str) -> Schedule:
    """The same share of the tokens at every step after a full first one, at the mean budget.

    The last step is full too where the mean allows it.
    """
    full = 2 if budget * part.steps >= 2.0 else 1
    between = (budget * part.steps - full) / max(1, part.steps - full)
    budgets = [1.0, *([between] * (part.steps - full)), *([1.0] * (full - 1))]
    return exactly(part, budgets, mode)


def exactly(part: Part, budgets: Sequence[float], mode: str = "default") -> Schedule:
    """A schedule of these budgets at a part's own levels."""
    return Schedule("control", tuple(zip(part.levels, budgets, strict=False)), mode=mode)
