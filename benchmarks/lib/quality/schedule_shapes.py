"""Schedules of simple shapes at exactly a budget, for controls. Import after the host has been started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from astraea.schedules import Schedule, budgets_for, periodic, warped_skip


def even_steps(name: str, budget: float, sigmas: Sequence[float], *, mode: str = "default") -> Schedule:
    """Computed steps, evenly spaced, the first and the last among them."""
    return replace(warped_skip(name, budget, sigmas, warp=0.0, full_start=1, full_end=1), mode=mode)


def patterned(
    name: str, pattern: Sequence[float], budget: float, sigmas: Sequence[float], *, mode: str = "default"
) -> Schedule:
    """A full step, then the repeated pattern of budgets, adjusted to the mean budget."""
    body = periodic("body", list(pattern), sigmas[1:], full_start=0)
    budgets = budgets_for(body, [*sigmas, 0.0], mean=budget)
    return Schedule(name, tuple(zip(sigmas, budgets, strict=True)), mode=mode)
