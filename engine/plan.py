"""What the user asked for, frozen: schedule, budget or target, mode and cache policy. Holds no tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import BudgetError
from ..kernels import AUTO as AUTO_ATTENTION
from ..kernels import WISHES as ATTENTION_WISHES
from ..schedules import OWN_TOLERANCE, Promise, Schedule, brought_to, guidance_of, off_way, promise_of
from .modes import Mode, mode_named

LEAST_BUDGET = 0.1
SAME_GUIDANCE = 0.02  # relative; what a promise is off by is less than what prompts differ by
CACHE_POLICIES = ("auto", "full", "fp8", "fp8-host", "none")


@dataclass(frozen=True)
class CachePolicy:
    """Where and how residuals are kept. A policy steps down in this order when memory is short:

    full (model dtype on the device) → fp8 (8 bit, scale per token) → fp8-host (8 bit in host memory) →
    none (no per-block store: token steps run in full). "auto" starts at full.
    """

    name: str = "auto"

    def __post_init__(self) -> None:
        if self.name not in CACHE_POLICIES:
            raise BudgetError(f"Cache policy {self.name!r} is unknown; choose one of {', '.join(CACHE_POLICIES)}.")

    def ladder(self) -> tuple[str, ...]:
        """The policies to try, best first."""
        start = "full" if self.name == "auto" else self.name
        return CACHE_POLICIES[CACHE_POLICIES.index(start) :]


@dataclass(frozen=True)
class Plan:
    """Lives in the MODEL's options: small, immutable, copied by reference.

    budget: mean share of tokens to compute; None takes the schedule's own mean, as does the budget it was found for.
    target_speedup: if set, the budget is derived from the model's size by the cost model instead.
    choice: how the schedule was chosen, in the user's words, for the report.
    attention: what computes the attention of token steps, see `kernels.attend`.
    others: schedules for the same wish, made for other numbers of steps or guidance scales; a run takes the one whose
        own runs were the most alike.
    """

    schedule: Schedule
    mode: Mode
    budget: float | None = None
    target_speedup: float | None = None
    cache: CachePolicy = CachePolicy()
    choice: str = ""
    attention: str = AUTO_ATTENTION
    others: tuple[Schedule, ...] = ()

    def __post_init__(self) -> None:
        if self.budget is not None and not (math.isfinite(self.budget) and LEAST_BUDGET <= self.budget <= 1.0):
            raise BudgetError(f"Budget {self.budget} is outside {LEAST_BUDGET}...1.0.")
        target = self.target_speedup
        if target is not None and not (math.isfinite(target) and 1.0 <= target <= 10.0):
            raise BudgetError(f"Target speed-up {target} is outside 1...10.")
        if self.attention not in ATTENTION_WISHES:
            raise BudgetError(f"Attention {self.attention!r} is unknown; choose one of {', '.join(ATTENTION_WISHES)}.")

    def __deepcopy__(self, memo: dict) -> Plan:
        return self  # immutable; hosts deep-copy model options

    @property
    def is_full(self) -> bool:
        """Whether every token of every step is to be computed, so that nothing needs to be done."""
        if self.target_speedup is not None:
            return self.target_speedup <= 1.0
        return (self.schedule.mean_budget if self.budget is None else self.budget) >= 1.0

    def for_run(self, steps: int, guidance: float | None = None) -> Plan:
        """The plan for a run of so many steps, or of a part of them; guidance: its scale where that is known."""
        scale = guidance_of(self.schedule) if guidance is None else guidance
        likest = min((self.schedule, *self.others), key=lambda schedule: off_way(schedule, steps, scale))
        budget = brought_to(likest, self.budget)
        if likest is self.schedule:
            return replace(self, budget=budget, others=())
        mode = mode_named(likest.mode) if self.mode.name == self.schedule.mode else self.mode
        way = f"{steps} steps" if guidance is None else f"{steps} steps and guidance {guidance:g}"
        told = f"{self.choice}; for {way}: '{likest.name}'" if self.choice else ""
        return replace(self, schedule=likest, mode=mode, budget=budget, choice=told, others=())

    @property
    def keeps_own_mean(self) -> bool:
        """Whether the schedule is used at its own mean budget."""
        if self.target_speedup is not None:
            return False
        return self.budget is None or abs(self.budget - self.schedule.mean_budget) < OWN_TOLERANCE

    def promise_for(self, budgets: Sequence[float], guidance: float | None = None) -> tuple[Promise | None, str]:
        """What the schedule promises for a run of these budgets by step, or why it promises nothing for such a run.

        guidance: its scale, where that is known.

        A promise holds for a schedule that is used as it was found. With another budget, mode or cache it is passed
        over in silence: then the user has asked for something else.
        """
        promise = promise_of(self.schedule)
        if promise is None or self.is_full or self.mode.name != self.schedule.mode:
            return None, ""
        steps = promise.steps or len(self.schedule.points)
        if len(budgets) != steps:
            told = f"{promise.figures()} for {steps} steps; this run has {len(budgets)}"
            return None, told if self.keeps_own_mean else ""
        if tuple(budgets) != self.schedule.budgets:
            return None, ""
        if promise.cfg is None or guidance is None or math.isclose(promise.cfg, guidance, rel_tol=SAME_GUIDANCE):
            return promise, ""
        return None, f"{promise.figures()} for guidance {promise.cfg:g}; this run has {guidance:g}"


def make_plan(
    schedule: Schedule,
    *,
    mode: str | None = None,
    budget: float | None = None,
    target_speedup: float | None = None,
    cache: str = "auto",
    choice: str = "",
    attention: str = AUTO_ATTENTION,
    others: Sequence[Schedule] = (),
) -> Plan:
    """A plan from plain values; `mode` None takes the schedule's. Raises BudgetError for values out of range."""
    mode_ = mode_named(mode or schedule.mode)
    return Plan(schedule, mode_, budget, target_speedup, CachePolicy(cache), choice, attention, tuple(others))
