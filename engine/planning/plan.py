"""The plan: what the user asked for, frozen, without tensors. `resolve` turns it into a run's settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import BudgetError
from ...kernels import AUTO as AUTO_ATTENTION
from ...kernels import BACKEND_CHOICES
from ...limits import MAX_TARGET_SPEEDUP, MIN_BUDGET
from ...schedules import AUTO, Schedule
from ..state.residual_store import AUTO_CACHE, CachePolicy
from .modes import Mode, mode_named

DEFAULT_CACHE = CachePolicy()


@dataclass(frozen=True)
class Plan:
    """The plan that a MODEL's options carry: small, immutable, copied by reference.

    schedule: None: chosen when a run begins: a saved one of `library` that was made for such a run, else steps placed
        for it.
    mode: None: the schedule's.
    budget: mean share of tokens to compute; None: the schedule's own mean.
    target_speedup: if set, the budget is derived from the model's size by the cost model instead.
    attention: backend for the attention of token steps, see `kernels.attend`.
    """

    schedule: Schedule | None
    mode: Mode | None = None
    budget: float | None = None
    target_speedup: float | None = None
    cache: CachePolicy = DEFAULT_CACHE
    attention: str = AUTO_ATTENTION
    library: tuple[Schedule, ...] = ()

    def __post_init__(self) -> None:
        if self.budget is not None and not (math.isfinite(self.budget) and MIN_BUDGET <= self.budget <= 1.0):
            raise BudgetError(f"Budget {self.budget} is outside {MIN_BUDGET}...1.0.")
        target = self.target_speedup
        if target is not None and not (math.isfinite(target) and 1.0 <= target <= MAX_TARGET_SPEEDUP):
            raise BudgetError(f"Target speed-up {target} is outside 1...{MAX_TARGET_SPEEDUP:g}.")
        if self.attention not in BACKEND_CHOICES:
            raise BudgetError(f"Attention {self.attention!r} is unknown; choose one of {', '.join(BACKEND_CHOICES)}.")
        if self.schedule is None and self.budget is None and target is None:
            raise BudgetError("Without a schedule a plan needs a budget or a target speed-up to choose one by.")

    def __deepcopy__(self, memo: dict) -> Plan:
        return self  # immutable; hosts deep-copy model options

    @property
    def name(self) -> str:
        """Name of the schedule, or `auto`."""
        return self.schedule.name if self.schedule is not None else AUTO

    @property
    def is_full(self) -> bool:
        """Tell whether every token of every step is to be computed, whichever schedule is chosen."""
        own_mean = self.schedule.mean_budget if self.schedule is not None else 0.0
        return self.is_full_at(own_mean if self.budget is None else self.budget)

    def is_full_at(self, mean_budget: float) -> bool:
        """Tell whether everything is to be computed with a schedule at this mean; a target speed-up overrules it."""
        return mean_budget >= 1.0 if self.target_speedup is None else self.target_speedup <= 1.0


def make_plan(
    schedule: Schedule | None,
    *,
    mode: str | None = None,
    budget: float | None = None,
    target_speedup: float | None = None,
    cache: str = AUTO_CACHE,
    attention: str = AUTO_ATTENTION,
    library: Sequence[Schedule] = (),
) -> Plan:
    """Make a plan from plain values. Raises BudgetError for values out of range or unknown."""
    if schedule is not None:
        mode_named(schedule.mode)
    chosen_mode = mode_named(mode) if mode is not None else None
    return Plan(schedule, chosen_mode, budget, target_speedup, CachePolicy(cache), attention, tuple(library))
