"""Resolves a plan for one run: with the run's facts it becomes a schedule, a budget per step and forecast settings.

Everything about a run that can be known before its first model call is decided here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...schedules import (
    ANY_FAMILY,
    AUTO,
    BUDGET_TOLERANCE,
    DEFAULT_MODE,
    OWN_MEAN_TOLERANCE,
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
    place_steps,
    target_budget,
    usual_forecast,
    without_partial_steps,
)
from ..sampler.profile import SamplerProfile, is_falling
from ..state.residual_store import NO_CACHE, CachePolicy
from .cost import WHOLE_STEPS, BlockCost, budget_for_speedup
from .modes import MODES, Mode, mode_named
from .plan import Plan

MIN_AUTO_STEPS = 4  # `auto` leaves shorter runs alone: one skipped step of three costs a quarter of the detail
FEW_STEPS = 8  # runs of at most so many get a note that gains are small
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

    budgets: per step; asked_budget: mean that the run is held to, asked for or the
    schedule's own, or planned for a target speed-up; is_full: every step is computed in full.
    choice: why the schedule was chosen, "" where the user named it; expected, expected_note: its expected result for
    this run, or why there is none; notes: for the report.
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
    expected: ExpectedResult | None
    expected_note: str
    notes: tuple[str, ...]

    @property
    def is_step_skipping(self) -> bool:
        """Tell whether the run has full and skipped steps alone, so that it may miss its budget by a part of a step."""
        return set(self.budgets) == {0.0, 1.0}


def resolve(plan: Plan, facts: RunFacts) -> RunSettings:
    """Resolve a plan. Raises ScheduleError where no schedule serves the model's family."""
    schedule, asked, choice = _choose_schedule(plan, facts)
    mode, profile = plan.mode or mode_named(schedule.mode), facts.profile
    budget = target_budget(schedule, asked)
    full_reason = profile.full_reason or _full_reason(plan, mode, facts)
    is_full = plan.is_full_at(schedule.mean_budget if budget is None else budget) or bool(full_reason)
    forecast = forecast_for(schedule, facts.guidance)
    budgets = [1.0] * profile.steps if is_full else _budgets(plan, schedule, mode, forecast, budget, facts)
    uses_own_mean = plan.target_speedup is None and (
        budget is None or abs(budget - schedule.mean_budget) < OWN_MEAN_TOLERANCE
    )
    expected, expected_note = None, ""
    if not is_full and mode.name == schedule.mode:
        expected, expected_note = _expected(schedule, budgets, facts.guidance, uses_own_mean)
    mean = schedule.mean_budget if asked is None else asked
    ideal = facts.cost.speedup(budgets, profile.calls_per_step)
    return RunSettings(
        schedule=schedule,
        mode=mode,
        cache=plan.cache,
        budgets=tuple(budgets),
        forecast=forecast,
        asked_budget=mean if plan.target_speedup is None else mean_budget(budgets, profile.calls_per_step),
        target_speedup=plan.target_speedup,
        ideal_speedup=ideal,
        is_full=is_full,
        choice=choice,
        expected=expected,
        expected_note=expected_note,
        notes=(full_reason, _missed_target(plan, ideal), *_notes(schedule, mode, budgets, forecast, facts, is_full)),
    )


def _choose_schedule(plan: Plan, facts: RunFacts) -> tuple[Schedule, float | None, str]:
    """Return the schedule, the mean budget that is asked for (None: the schedule's own), and why it was chosen."""
    if plan.schedule is not None:
        return plan.schedule, plan.budget, ""
    target = plan.target_speedup
    wanted = 1.0 / target if target else plan.budget
    assert wanted is not None
    saved = pick_alike(
        wanted,
        facts.family,
        [schedule for schedule in plan.library if schedule.mode in MODES],
        facts.profile.levels,
        facts.guidance,
    )
    if saved is None:
        placed = _placed(wanted, facts)
        more = _computes_more(placed, wanted, facts.profile)
        return placed, None if target or more else wanted, _explain_placement(facts.profile, placed, more)
    aim = f"the target of {target:g}x" if target else "the budget"
    if target:
        return saved, None, _explain(saved, None, aim)
    # A budget this close counts as the schedule's own mean: at that, a run of as many steps uses the schedule's budgets
    # as they are; at any other mean, full steps are placed anew.
    is_own = abs(saved.mean_budget - wanted) < OWN_MEAN_TOLERANCE
    asked = max(wanted, saved.mean_budget) if is_own else wanted
    return saved, asked, _explain(saved, asked, aim)


def _placed(budget: float, facts: RunFacts) -> Schedule:
    """Return a schedule of whole steps, placed for this run."""
    profile = facts.profile
    if not is_falling(profile.levels) or len(profile.levels) < 2:
        return Schedule(AUTO, ((1.0, 1.0),))  # such a run is computed in full
    most = budget * sum(profile.calls_per_step) * (1.0 + BUDGET_TOLERANCE)
    if _knows_errors(mode_named(DEFAULT_MODE), profile):
        computed = place_enough_steps(profile.placement_steps, most, usual_forecast(facts.guidance))
    else:
        computed = place_evenly(profile.placement_steps, most)
    return Schedule(AUTO, tuple(zip(profile.levels, map(float, computed), strict=False)))


def _placing(mode: Mode, forecast: Forecast, profile: SamplerProfile) -> Place:
    """Return how whole steps are placed: at even intervals where errors cannot be corrected, as nothing is known."""
    if not _knows_errors(mode, profile):
        return partial(place_evenly, profile.placement_steps)
    return partial(place_steps, profile.placement_steps, forecast=forecast)


def _knows_errors(mode: Mode, profile: SamplerProfile) -> bool:
    return mode.corrects and profile.solver is not None and not profile.own_levels


def _computes_more(placed: Schedule, budget: float, profile: SamplerProfile) -> bool:
    """Tell whether steps were placed beyond the budget."""
    if len(placed.points) != profile.steps:
        return False
    return mean_budget(placed.budgets, profile.calls_per_step) > budget * (1.0 + BUDGET_TOLERANCE)


def _explain_placement(profile: SamplerProfile, placed: Schedule, more: bool) -> str:
    """Return the reason for these whole steps. more: than the budget allows."""
    how = "where they leave the least expected error"
    if not _knows_errors(mode_named(DEFAULT_MODE), profile):
        how = "at even intervals"
    reason = f"auto: whole steps, placed {how}; it keeps a few latents per conditioning"
    count = sum(each > 0.0 for each in placed.budgets)
    return f"{reason}; {count} of {profile.steps} are computed, as fewer would give another clip" if more else reason


def _explain(schedule: Schedule, budget: float | None, aim: str) -> str:
    """Return the reason why `auto` took this saved schedule, and what it keeps in memory."""
    budget = target_budget(schedule, budget)
    # The mean of a step-skipping schedule is at most a step away from the budget that it was made for.
    tolerance = OWN_MEAN_TOLERANCE if schedule.has_partial_steps else 1.0 / len(schedule.points)
    brought = ""
    if budget is not None and abs(schedule.mean_budget - budget) > tolerance:
        brought = f", brought from a mean of {schedule.mean_budget:.0%} to {budget:.0%}"
    keeps = "tensors per block" if schedule.has_partial_steps else "a few latents per conditioning"
    reason = f"; {schedule.provenance['why']}" if schedule.provenance.get("why") else ""
    return f"auto: '{schedule.name}' was saved for {aim} and runs like this one{brought}; it keeps {keeps}{reason}"


def _full_reason(plan: Plan, mode: Mode, facts: RunFacts) -> str:
    steps = facts.profile.steps
    if plan.schedule is None and steps < MIN_AUTO_STEPS:
        return f"a run of {steps} steps leaves nothing to reuse: choose a schedule by name to skip one all the same"
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

    if target is None or (
        plan.schedule is None and schedule.name == AUTO
    ):  # `auto` has placed its steps for the target
        return budgets_at(budget)
    if not schedule.has_partial_steps:
        return budgets_at(1.0 / target)
    return budgets_at(budget_for_speedup(target, cost, budgets_at, profile.calls_per_step))


def _missed_target(plan: Plan, ideal: float) -> str:
    """Return that a target speed-up cannot be had, or ""."""
    if plan.target_speedup is None or ideal >= NEAR_TARGET * plan.target_speedup:
        return ""
    return f"a speed-up of {plan.target_speedup:g}x cannot be had in this run: {ideal:.2f}x at most"


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
        if profile.steps <= FEW_STEPS:
            notes.append(f"a run of {profile.steps} steps leaves little to reuse: gains are small")
        if mode.corrects and min(budgets) == 0.0:
            notes.append(profile.uncorrected_reason)
    if facts.family and schedule.family not in (facts.family, ANY_FAMILY):
        notes.append(f"schedule '{schedule.name}' was made for {schedule.family}, this model is {facts.family}")
    return notes
