"""Hand-made schedules: uniform budgets and repeating rhythms, on the noise levels of a flow model."""

from __future__ import annotations

from collections.abc import Sequence

from .schedule import Schedule


def flow_sigmas(steps: int, shift: float = 8.0) -> list[float]:
    """The falling sigmas (without the final 0) of a flow model's evenly spaced schedule with a shift."""
    uniform_levels = [1.0 - step / steps for step in range(steps)]
    return [shift * u / (1.0 + (shift - 1.0) * u) for u in uniform_levels]


def rhythm(
    name: str,
    pattern: Sequence[float],
    sigmas: Sequence[float],
    *,
    full_start: int = 3,
    mode: str = "default",
    family: str = "any",
) -> Schedule:
    """`full_start` full steps, then the pattern over and over, and a full last step."""
    middle = max(0, len(sigmas) - full_start - 1)
    budgets = [1.0] * min(full_start, len(sigmas)) + [pattern[i % len(pattern)] for i in range(middle)]
    budgets = (budgets + [1.0])[: len(sigmas)]
    budgets[-1] = 1.0
    return Schedule(name, tuple(zip(sigmas, budgets, strict=True)), family=family, mode=mode)


def uniform(name: str, budget: float, sigmas: Sequence[float], *, mode: str = "default") -> Schedule:
    """The same budget at every step between a full first and a full last one."""
    return rhythm(name, [budget], sigmas, full_start=1, mode=mode)


def whole_steps(name: str, period: int, sigmas: Sequence[float], *, mode: str = "default") -> Schedule:
    """One full step in every `period`, all others reuse steps."""
    return rhythm(name, [0.0] * (period - 1) + [1.0], sigmas, mode=mode)
