"""Facts about a run's sampler: its model calls, their steps, and the weights of predictions in the latents.

They come from a probe of the sampler. Where nothing is known: one call a step, and no correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...limits import ZERO_SIGMA
from ...schedules import SamplerSteps
from .solver import Solver

SAME_SIGMA, SAME_SIGMA_RELATIVE = 1e-6, 1e-5  # two levels this close are one, but for rounding
MAX_CALLS_PER_STEP = 12  # beyond, a sampler is not followed


@dataclass(frozen=True)
class SamplerProfile:
    """The sampler of one run.

    levels: noise levels of the run's steps, the last one included; calls_per_step: model calls, at least one each.
    calls: noise level of each model call, in order; call_steps: the step of each. Both are empty where unknown.
    solver: weights of predictions; None where they could not be read: then nothing is corrected.
    full_reason: why such a run is computed in full; "" where steps can be skipped.
    uncorrected_reason: why skipped steps hold the newest prediction; "" where they are forecast and corrected.
    own_levels: the levels are the sampler's own; it ignores those that it was given.
    """

    levels: tuple[float, ...]
    calls_per_step: tuple[int, ...]
    calls: tuple[float, ...] = ()
    call_steps: tuple[int, ...] = ()
    solver: Solver | None = None
    full_reason: str = ""
    uncorrected_reason: str = ""
    own_levels: bool = False

    @property
    def steps(self) -> int:
        return max(1, len(self.levels) - 1)

    @property
    def memory(self) -> int:
        """Number of latents that each conditioning keeps for corrections."""
        return self.solver.memory + int(not self.solver.all_can_correct) if self.solver is not None else 0

    @property
    def placement_steps(self) -> SamplerSteps:
        """The steps as a placement needs them, with Euler's weights where the sampler's are unknown."""
        if self.solver is None or not self.calls:
            return SamplerSteps.of_euler(self.levels, self.calls_per_step)
        return SamplerSteps(self.levels, self.calls_per_step, self.calls, self.call_steps, self.solver.weights_after)

    def ends_at(self, step: int) -> bool:
        """Tell whether the sampler takes the prediction of this step as the result."""
        return step == self.steps - 1 and self.levels[-1] <= ZERO_SIGMA

    def step_of(self, sigma: float) -> int:
        """Return the step that a noise level belongs to."""
        return step_of(self.levels, sigma)

    @staticmethod
    def unknown(levels: Sequence[float], uncorrected_reason: str = "", full_reason: str = "") -> SamplerProfile:
        """Return the profile of a sampler of which nothing is known."""
        steps = max(1, len(levels) - 1)
        return SamplerProfile(
            tuple(levels), (1,) * steps, full_reason=full_reason, uncorrected_reason=uncorrected_reason
        )

    @staticmethod
    def of(
        levels: Sequence[float], calls_per_step: Sequence[int] | None = None, solver: Solver | None = None
    ) -> SamplerProfile:
        """Return the profile of a sampler with so many calls a step, one by default, in the order of the levels.

        solver: Euler's by default, where each step has one call.
        """
        steps = max(1, len(levels) - 1)
        counts = tuple(calls_per_step) if calls_per_step is not None else (1,) * steps
        if len(levels) < 2:
            return SamplerProfile(tuple(levels), counts)
        single = all(count == 1 for count in counts)
        solver = solver or (Solver.from_sigmas(levels) if single else None)
        call_steps = tuple(step for step, count in enumerate(counts) for _ in range(count))
        calls = tuple(levels[step] for step in call_steps)
        return SamplerProfile(tuple(levels), counts, calls, call_steps, solver)

    @staticmethod
    def of_calls(
        sigmas: Sequence[float], calls: Sequence[float], solver: Solver | None, uncorrected_reason: str = ""
    ) -> SamplerProfile:
        """Return the profile of a sampler that calls the model at these noise levels.

        A call belongs to the step that begins at its level, or at the next higher one. Where that leaves steps without
        a call, the sampler has its own levels between the first and the last: each level that it calls at is a step.
        """
        levels = tuple(sigmas)
        steps = [step_of(levels, sigma) for sigma in calls]
        own_levels = set(steps) != set(range(len(levels) - 1))
        if own_levels:
            levels = (*_distinct(calls), levels[-1])
            steps = [step_of(levels, sigma) for sigma in calls]
        calls_per_step = tuple(steps.count(step) for step in range(len(levels) - 1))
        return SamplerProfile(
            levels,
            calls_per_step,
            tuple(calls),
            tuple(steps),
            solver,
            uncorrected_reason="" if solver is not None else uncorrected_reason,
            own_levels=own_levels,
        )


def step_of(levels: Sequence[float], sigma: float) -> int:
    """Return the step of a noise level: that of the last level which is not below it."""
    tolerance = max(SAME_SIGMA, SAME_SIGMA_RELATIVE * abs(sigma))
    reached = sum(level >= sigma - tolerance for level in levels)
    return min(max(reached - 1, 0), max(0, len(levels) - 2))


def is_same(one: float, other: float) -> bool:
    """Tell whether two noise levels are the same, but for rounding."""
    return abs(one - other) <= max(SAME_SIGMA, SAME_SIGMA_RELATIVE * abs(other))


def is_falling(levels: Sequence[float]) -> bool:
    """Tell whether noise levels fall from step to step."""
    return all(after < before for before, after in pairwise(levels))


def is_falling_or_level(levels: Sequence[float]) -> bool:
    """Tell whether no noise level is above the one before."""
    return all(after <= before or is_same(after, before) for before, after in pairwise(levels))


def _distinct(calls: Sequence[float]) -> list[float]:
    found: list[float] = []
    for sigma in sorted(calls, reverse=True):
        if not found or not is_same(sigma, found[-1]):
            found.append(sigma)
    return found
