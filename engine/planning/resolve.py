"""Resolves a plan for one run: with the run's facts it becomes a schedule, a budget per step and forecast settings.

Everything about a run that can be known before its first model call is decided here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from ...limits import MAX_STEPS
from ...schedules import (
    ANY_FAMILY,
    AUTO,
    BUDGET_TOLERANCE,
    DEFAULT_MODE,
    LONGEST,
    MAX_SIGMA,
    OWN_MEAN_TOLERANCE,
    SAME_BUDGET,
    ExpectedResult,
    Forecast,
    Place,
    Schedule,
    budgets_for,
    expected_of,
    forecast_for,
    mean_budget,
    pick_alike,
    place_enough_steps,
    place_evenly,
    place_held,
    place_steps,
    target_budget,
    usual_forecast,
    without_partial_steps,
)
from ..sampler.profile import SamplerProfile, is_falling, is_falling_or_level
from ..state.residual_store import NO_CACHE, CachePolicy
from .cost import WHOLE_STEPS, BlockCost, budget_for_speedup
from .modes import MODES, Mode, mode_named
from .plan import Plan

MIN_AUTO_STEPS = 4  # `auto` leaves shorter runs alone: one skipped step of three costs a quarter of the detail
FEW_STEPS = 8  # runs of at most so many get a note that each skipped step counts
UNPLANNED = "these noise levels cannot be planned: every step is computed"  # too many, infinite, or 0 before the end
NEAR_TARGET = 0.95  # share of a target speed-up that counts as reaching it
SAME_GUIDANCE = 0.02  # relative difference that changes an expected result less than another prompt does


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run, known when it begins.

    guidance: its scale where the host states it; cost: of an average block, for target speed-ups and the ideal figure;
    has_runner: the model's blocks can run for selected tokens, so that partial steps are possible; limit: why not, for
    the report.
    """

    profile: SamplerProfile
    family: str = ""
    guidance: float | None = None
    cost: BlockCost = WHOLE_STEPS
    has_runner: bool = True
    limit: str = ""


@dataclass(frozen=True)
class RunSettings:
    """A plan resolved for one run.

    budgets: per step; asked_budget: mean that was asked for, or the schedule's own, or planned for a target speed-up;
    is_full: every step is computed in full.
    choice: why the schedule was chosen, "" where the user named it; excess_note: why more is computed than was asked
    for, or ""; expected, expected_note: the schedule's expected result for this run, or why there is none; notes: for
    the report.
    """

    schedule: Schedule
    mode: Mode
    cache: CachePolicy
    budgets: tuple[float, ...]
    forecast: Forecast
    asked_budget: float
    target_speedup: float | None
    ideal_speedup: float
    is_full: bool
    choice: str
    excess_note: str
    expected: ExpectedResult | None
    expected_note: str
    notes: tuple[str, ...]

    @property
    def is_step_skipping(self) -> bool:
        """Tell whether the run has full and skipped steps alone, so that it may miss its budget by a part of a step."""
        return set(self.budgets) == {0.0, 1.0}


@dataclass(frozen=True)
class _Choice:
    """A schedule for a run. mean: to place its steps at, None: as they are; reason: why it was chosen."""

    schedule: Schedule
    mean: float | None
    reason: str = ""


def resolve(plan: Plan, facts: RunFacts) -> RunSettings:
    """Resolve a plan with the facts of one run."""
    chosen = _choose(plan, facts)
    schedule, profile = chosen.schedule, facts.profile
    mode = plan.mode or mode_named(schedule.mode)
    budget = target_budget(schedule, chosen.mean)
    full_reason = profile.full_reason or _full_reason(plan, mode, facts)
    is_full = plan.is_full_at(schedule.mean_budget if budget is None else budget) or bool(full_reason)
    forecast = _followed(forecast_for(schedule, facts.guidance), profile)
    budgets = [1.0] * profile.steps if is_full else _budgets(plan, schedule, mode, forecast, budget, facts)
    uses_own_mean = plan.target_speedup is None and (
        budget is None or abs(budget - schedule.mean_budget) < OWN_MEAN_TOLERANCE
    )
    expected, expected_note = None, ""
    if not is_full and mode.name == schedule.mode:
        expected, expected_note = _expected(schedule, budgets, facts.guidance, uses_own_mean)
    computed = mean_budget(budgets, profile.calls_per_step)
    ideal = facts.cost.speedup(budgets, profile.calls_per_step)
    excess = "" if full_reason else _excess_note(plan, budgets, facts)
    return RunSettings(
        schedule=schedule,
        mode=mode,
        cache=plan.cache,
        budgets=tuple(budgets),
        forecast=forecast,
        asked_budget=computed if plan.target_speedup else plan.budget or schedule.mean_budget,
        target_speedup=plan.target_speedup,
        ideal_speedup=ideal,
        is_full=is_full,
        choice=chosen.reason,
        excess_note=excess,
        expected=expected,
        expected_note=expected_note,
        notes=(
            full_reason,
            _missed_target(plan, ideal, excess) or excess,
            *_notes(schedule, mode, budgets, forecast, facts, is_full),
        ),
    )


def _choose(plan: Plan, facts: RunFacts) -> _Choice:
    """Return the schedule of a run: the user's own, or a saved one that suits, or steps placed for this run."""
    if plan.schedule is not None:
        return _Choice(plan.schedule, plan.budget)
    target = plan.target_speedup
    wanted = 1.0 / target if target else plan.budget
    assert wanted is not None
    can_run_tokens = facts.has_runner and plan.cache.name != NO_CACHE
    usable = [each for each in plan.library if each.mode in MODES and (can_run_tokens or not each.has_partial_steps)]
    saved = pick_alike(wanted, facts.family, usable, facts.profile.levels, facts.guidance)
    if saved is None:
        placed = _placed(wanted, facts)
        return _Choice(placed, None, _explain_placement(facts.profile, placed))
    aim = f"the target of {target:g}x" if target else "the budget"
    # It may have been searched at more than was asked for, as fewer steps give another clip. A budget this close counts
    # as its own mean: at that, a run of as many steps uses its budgets as they are; at a larger one, full steps are
    # placed anew.
    own = saved.mean_budget
    mean = None if target or own > wanted + OWN_MEAN_TOLERANCE else max(wanted, own)
    return _Choice(saved, mean, _explain(saved, mean, aim))


def _placed(budget: float, facts: RunFacts) -> Schedule:
    """Return a schedule of whole steps, placed for this run."""
    profile = facts.profile
    if budget >= 1.0 or not _can_be_placed(profile.levels):
        return Schedule(AUTO, ((1.0, 1.0),))  # such a run is computed in full
    forecast, mode = _followed(usual_forecast(facts.guidance), profile), mode_named(DEFAULT_MODE)
    place = _placing(mode, forecast, profile)
    if _knows_errors(mode, profile):
        place = partial(place_enough_steps, profile.placement_steps, forecast=forecast)
    computed = place(budget * sum(profile.calls_per_step) * (1.0 + BUDGET_TOLERANCE))
    return Schedule(AUTO, tuple(zip(profile.levels, map(float, computed), strict=False)))


def _can_be_placed(levels: Sequence[float]) -> bool:
    return 2 <= len(levels) <= MAX_STEPS + 1 and is_falling(levels) and levels[-2] > 0.0 and levels[0] <= MAX_SIGMA


def _placing(mode: Mode, forecast: Forecast, profile: SamplerProfile) -> Place:
    """Return how whole steps are placed: at even intervals where errors cannot be corrected, as nothing is known."""
    if profile.solver is None:
        return partial(place_held, profile.placement_steps)
    if not _knows_errors(mode, profile):
        return partial(place_evenly, profile.placement_steps)
    return partial(place_steps, profile.placement_steps, forecast=forecast)


def _followed(forecast: Forecast, profile: SamplerProfile) -> Forecast:
    """Return the forecast settings for a sampler.

    One that goes back to more noise for its trial steps (Heun++) calls the model on latents that are not those of the
    run: what they lack is no error that a prediction could be seen to follow.
    """
    return forecast if is_falling_or_level(profile.calls) else replace(forecast, response=0.0)


def _knows_errors(mode: Mode, profile: SamplerProfile) -> bool:
    return mode.corrects and profile.solver is not None and not profile.own_levels


def _explain_placement(profile: SamplerProfile, placed: Schedule) -> str:
    """Return the reason for these whole steps; "" where nothing was chosen."""
    if len(placed.points) != profile.steps or min(placed.budgets) == 1.0:
        return ""
    knows = _knows_errors(mode_named(DEFAULT_MODE), profile) and len(profile.calls) <= LONGEST
    how = "where they leave the least expected error" if knows else "at even intervals"
    return f"auto: whole steps, placed {how}; it keeps a few latents per conditioning"


def _excess_note(plan: Plan, budgets: Sequence[float], facts: RunFacts) -> str:
    """Return why `auto` computes more than was asked for; "" where it does not."""
    profile = facts.profile
    wanted = 1.0 / plan.target_speedup if plan.target_speedup else plan.budget
    if plan.schedule is not None or wanted is None or len(budgets) != profile.steps:
        return ""
    computed = [step for step, budget in enumerate(budgets) if budget > 0.0]
    above = mean_budget(budgets, profile.calls_per_step) - wanted
    if above <= SAME_BUDGET or set(computed) <= {0, profile.steps - 1}:  # these two are always computed
        return ""
    count = f"all {profile.steps} steps" if min(budgets) == 1.0 else f"{len(computed)} of {profile.steps} steps"
    return f"{count} are computed: with fewer, this run would give another clip"


def _explain(schedule: Schedule, budget: float | None, aim: str) -> str:
    """Return the reason why `auto` took this saved schedule, and what it keeps in memory."""
    budget = target_budget(schedule, budget)
    # The mean of a step-skipping schedule is at most a step away from the budget that it was made for.
    tolerance = OWN_MEAN_TOLERANCE if schedule.has_partial_steps else 1.0 / len(schedule.points)
    brought = ""
    if budget is not None and abs(schedule.mean_budget - budget) > tolerance:
        brought = f", brought from a mean of {schedule.mean_budget:.0%} to {budget:.0%}"
    keeps = "tensors per block" if schedule.has_partial_steps else "a few latents per conditioning"
    return f"auto: '{schedule.name}' was saved for {aim} and runs like this one{brought}; it keeps {keeps}"


def _full_reason(plan: Plan, mode: Mode, facts: RunFacts) -> str:
    steps = facts.profile.steps
    if plan.schedule is None and not plan.is_full:
        if steps < MIN_AUTO_STEPS:
            return f"a run of {steps} steps leaves nothing to reuse: choose a schedule by name to skip one all the same"
        if not _can_be_placed(facts.profile.levels):
            return UNPLANNED
    if mode.per_block and not facts.has_runner:
        why = f"; {facts.limit}" if facts.limit else ""
        return f"mode '{mode.name}' works inside the model's blocks, which it cannot here: every step is computed{why}"
    return ""


def _budgets(
    plan: Plan, schedule: Schedule, mode: Mode, forecast: Forecast, budget: float | None, facts: RunFacts
) -> list[float]:
    """Return the budget of each step."""
    profile, cost, target = facts.profile, facts.cost, plan.target_speedup
    has_partial_steps = plan.cache.name != NO_CACHE and facts.has_runner
    place = _placing(mode, forecast, profile)

    def budgets_at(mean: float | None) -> list[float]:
        budgets = budgets_for(schedule, profile.levels, calls_per_step=profile.calls_per_step, mean=mean, place=place)
        return budgets if has_partial_steps else without_partial_steps(budgets, profile.calls_per_step)

    is_placed = plan.schedule is None and schedule.name == AUTO  # for the target already
    if target is None or is_placed:
        return budgets_at(budget)
    if not schedule.has_partial_steps:
        is_searched_above = plan.schedule is None and schedule.mean_budget > 1.0 / target
        return budgets_at(None if is_searched_above else 1.0 / target)
    return budgets_at(budget_for_speedup(target, cost, budgets_at, profile.calls_per_step))


def _missed_target(plan: Plan, ideal: float, excess: str) -> str:
    """Return that a target speed-up is not reached, or "". excess: why more is computed, if that is known."""
    if plan.target_speedup is None or ideal >= NEAR_TARGET * plan.target_speedup:
        return ""
    why = f"; {excess}" if excess else ""
    return f"the target of {plan.target_speedup:g}x is not reached in this run, which gets {ideal:.2f}x at most{why}"


def _expected(
    schedule: Schedule, budgets: Sequence[float], guidance: float | None, uses_own_mean: bool
) -> tuple[ExpectedResult | None, str]:
    """Return the schedule's expected result for a run of these budgets; None without one, with the reason or "".

    A schedule's result holds for its own budgets, steps and guidance only. The reason is "" where the user asked for
    another budget.
    """
    expected = expected_of(schedule)
    if expected is None:
        return None, ""
    steps = expected.steps or len(schedule.points)
    if len(budgets) != steps:
        note = f"{expected.figures()} for {steps} steps; this run has {len(budgets)}"
        return None, note if uses_own_mean else ""
    if tuple(budgets) != schedule.budgets:
        return None, ""
    cfg = expected.cfg
    if cfg is None or guidance is None or math.isclose(cfg, guidance, rel_tol=SAME_GUIDANCE):
        return expected, ""
    return None, f"{expected.figures()} for guidance {cfg:g}; this run has {guidance:g}"


def _notes(
    schedule: Schedule, mode: Mode, budgets: Sequence[float], forecast: Forecast, facts: RunFacts, is_full: bool
) -> list[str]:
    """Return remarks for the report, which leaves out empty ones."""
    notes, profile = [], facts.profile
    if not is_full:
        if facts.limit:
            notes.append(f"whole steps; {facts.limit}")
        if profile.steps <= FEW_STEPS and min(budgets) == 0.0:
            notes.append(
                f"in a run of {profile.steps} steps each skipped one changes the clip more than in longer runs"
            )
        if mode.per_block and not schedule.has_partial_steps:
            notes.append(f"schedule '{schedule.name}' has whole steps only: mode '{mode.name}' changes little")
        if mode.corrects and min(budgets) == 0.0:
            notes.append(profile.uncorrected_reason)
    if facts.family and schedule.family not in (facts.family, ANY_FAMILY):
        notes.append(f"schedule '{schedule.name}' was made for {schedule.family}, this model is {facts.family}")
    return notes
