"""Schedules of simple shapes: uniform, periodic and warped ones, on the noise levels of a flow model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .density import place_full_steps
from .forecast import DEFAULT_FORECAST
from .placement import SamplerSteps, place_steps
from .schedule import ANY_RUN_KEY, Schedule

USUAL_STEPS, USUAL_SHIFT = 30, 8.0  # of a schedule that is made for no particular run
# Schedules that shipped with the pack before it placed steps for every run; workflows still name them.
_FORMER_NAME = re.compile(r"(?:any|wan)-(0\.\d\d)(?:-\d+-steps-cfg-\d+)?")


def flow_sigmas(steps: int, shift: float = 8.0) -> list[float]:
    """Return the falling sigmas of a flow model, evenly spaced and then shifted, without the final 0."""
    uniform_levels = [1.0 - step / steps for step in range(steps)]
    return [shift * u / (1.0 + (shift - 1.0) * u) for u in uniform_levels]


def periodic(name: str, pattern: Sequence[float], sigmas: Sequence[float], *, full_start: int = 3) -> Schedule:
    """Make a schedule of `full_start` full steps, then the pattern repeated, and a full last step."""
    middle = max(0, len(sigmas) - full_start - 1)
    budgets = [1.0] * min(full_start, len(sigmas)) + [pattern[i % len(pattern)] for i in range(middle)]
    budgets = (budgets + [1.0])[: len(sigmas)]
    budgets[-1] = 1.0
    return Schedule(name, tuple(zip(sigmas, budgets, strict=True)))


def uniform(name: str, budget: float, sigmas: Sequence[float]) -> Schedule:
    """Make a schedule of one budget between a full first and a full last step."""
    return periodic(name, [budget], sigmas, full_start=1)


def warped_skip(
    name: str,
    budget: float,
    sigmas: Sequence[float],
    *,
    warp: float = 0.5,
    full_start: int = 1,
    full_end: int = 1,
) -> Schedule:
    """Make a step-skipping schedule whose full steps are closer together where sigma falls faster, or more slowly.

    budget: share of full steps, rounded to a whole number; full_start, full_end: how many begin and end the run.
    warp: 0 spaces the others evenly by steps, 1 evenly by sigma; below 0 they are closer where sigma falls more slowly.
    """
    steps = len(sigmas)
    falls = [a - b for a, b in zip(sigmas, [*sigmas[1:], 0.0], strict=True)]
    # By the fall of sigma just before each middle step.
    bridged = [max(fall, 1e-6) ** warp for fall in falls[full_start - 1 : steps - full_end - 1]]
    between = min(len(bridged), max(0, round(budget * steps) - full_start - full_end))
    budgets = ([1.0] * full_start + place_full_steps(bridged, between) + [1.0] * full_end)[:steps]
    return Schedule(name, tuple(zip(sigmas, budgets, strict=True)))


def whole_steps(name: str, budget: float) -> Schedule:
    """Make a schedule of whole steps for no particular run; on any other they are placed anew for its budget."""
    sigmas = flow_sigmas(USUAL_STEPS, USUAL_SHIFT)
    computed = place_steps(SamplerSteps.of_euler([*sigmas, 0.0]), budget * USUAL_STEPS, DEFAULT_FORECAST)
    points = tuple(zip(sigmas, map(float, computed), strict=True))
    return Schedule(name, points, provenance={ANY_RUN_KEY: True})


def token_steps(name: str, budget: float) -> Schedule:
    """Make a schedule of token steps for no particular run: the same share of the tokens between full ends."""
    return uniform(name, budget, flow_sigmas(USUAL_STEPS, USUAL_SHIFT))


def former_schedule(name: str) -> Schedule | None:
    """Return whole steps at the budget in the name of a schedule that once shipped with the pack; None for others."""
    match = _FORMER_NAME.fullmatch(name)
    return whole_steps(name, float(match[1])) if match else None
