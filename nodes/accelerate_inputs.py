"""From the widgets of `Astraea Accelerate` to a plan: which schedule, at what budget, with which controls."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from ..engine.plan import ATTENTION_WISHES as ATTENTION_CHOICES
from ..engine.plan import CACHE_POLICIES, Plan, make_plan
from ..errors import InputError
from ..host.folders import find_schedule, schedule_folders
from ..schedules import (
    AUTO,
    OWN_TOLERANCE,
    Schedule,
    brought_to,
    flow_sigmas,
    list_schedules,
    pick,
    pick_by_way,
    promise_of,
    uniform,
    whole_steps,
)
from ..schedules.expected import tell
from .checks import number, one_of, text

UNKNOWN_FAMILY = "any"
OWN_MODE = "schedule's own"
UNIFORM = "uniform"
WHOLE_HOLD = "whole-step hold"
WHOLE_FORECAST = "whole-step forecast"
MODE_CHOICES = (OWN_MODE, "default", "paper", "random", UNIFORM, WHOLE_HOLD, WHOLE_FORECAST)
# What a control computes with; the others take the mode of their name.
MODE_OF_CONTROL = {UNIFORM: "default", WHOLE_HOLD: "hold", WHOLE_FORECAST: "forecast"}
LEAST_BUDGET, MOST_SPEEDUP = 0.2, 8.0
BUDGET_HINT = "It is the share of the model's work that is done: with 0.4, 40 % of it; 1 changes nothing."
TARGET_HINT = "2 means twice as fast, 0 that the budget is used."


@dataclass(frozen=True)
class Wish:
    """The widgets' values. schedule: a name, `auto`, or a linked schedule; target_speedup 0: use the budget."""

    schedule: str | Schedule
    budget: float
    target_speedup: float = 0.0
    mode: str = OWN_MODE
    cache: str = "auto"
    attention: str = "auto"


def checked(wish: Wish) -> Wish:
    """The same wish, if all of its values can work. Raises InputError with the one that cannot."""
    schedule = wish.schedule if isinstance(wish.schedule, Schedule) else text("schedule", wish.schedule)
    target = number("target_speedup", wish.target_speedup, 0.0, MOST_SPEEDUP, TARGET_HINT)
    if 0.0 < target < 1.0:
        raise InputError(f"The input 'target_speedup' takes 0, or 1 to {MOST_SPEEDUP:g}, not {target:g}. {TARGET_HINT}")
    return replace(
        wish,
        schedule=schedule,
        budget=number("budget", wish.budget, LEAST_BUDGET, 1.0, BUDGET_HINT),
        target_speedup=target,
        mode=one_of("mode", wish.mode, MODE_CHOICES),
        cache=one_of("cache", wish.cache, CACHE_POLICIES),
        attention=one_of("attention", wish.attention, ATTENTION_CHOICES),
    )


def choose_plan(wish: Wish, family: str) -> Plan:
    """The plan for a model of this family. Raises InputError, ScheduleError or BudgetError."""
    wish = checked(wish)
    target = wish.target_speedup or None
    schedule, budget = _schedule_and_budget(wish, family)
    if wish.mode in MODE_OF_CONTROL:
        budget = schedule.mean_budget if budget is None else budget
        schedule = _control(wish.mode, schedule, budget)
    mode = None if wish.mode == OWN_MODE else MODE_OF_CONTROL.get(wish.mode, wish.mode)
    # Without a per-block store the engine keeps to whole steps on every grid, which is what these controls mean.
    cache = "none" if wish.mode in (WHOLE_HOLD, WHOLE_FORECAST) else wish.cache
    budget = None if target else budget
    by_itself = wish.schedule == AUTO and family != UNKNOWN_FAMILY and mode is None
    choice = explain(schedule, budget, target) if by_itself else ""
    return make_plan(
        schedule,
        mode=mode,
        budget=budget,
        target_speedup=target,
        cache=cache,
        choice=choice,
        attention=wish.attention,
        others=_for_other_runs(schedule, wish, family) if mode is None else (),
    )


def _for_other_runs(schedule: Schedule, wish: Wish, family: str) -> tuple[Schedule, ...]:
    """With `auto`: what would be chosen for runs of other steps or guidance; a run knows its own when it begins."""
    if wish.schedule != AUTO or family == UNKNOWN_FAMILY:
        return ()
    budget = 1.0 / wish.target_speedup if wish.target_speedup else wish.budget
    return tuple(other for other in pick_by_way(budget, family, schedule_folders()) if other != schedule)


def _schedule_and_budget(wish: Wish, family: str) -> tuple[Schedule, float | None]:
    """The schedule, and the mean budget it is to be brought to (None: its own)."""
    if isinstance(wish.schedule, Schedule):
        return wish.schedule, None
    if wish.schedule != AUTO:
        return find_schedule(wish.schedule), None
    budget = 1.0 / wish.target_speedup if wish.target_speedup else wish.budget
    if family == UNKNOWN_FAMILY:  # the model will pass through: nothing to choose, and nothing to fail about
        return uniform(AUTO, budget, flow_sigmas(30)), budget
    schedule = pick(budget, family, schedule_folders())
    # Asked for its own mean, a schedule is used point for point on its own steps; for another it is laid out anew.
    fits = abs(schedule.mean_budget - budget) < OWN_TOLERANCE
    return schedule, max(budget, schedule.mean_budget) if fits else budget


def explain(schedule: Schedule, budget: float | None, target: float | None) -> str:
    """Why `auto` took this schedule, what it keeps in memory and, used as it was found, what it promises.

    budget: the mean it is brought to, None its own.
    """
    wanted = f"the target of {target:g}x" if target else "the budget"
    brought, budget = "", brought_to(schedule, budget)
    if budget is not None and abs(schedule.mean_budget - budget) > _unspent(schedule):
        brought = f", brought from a mean of {schedule.mean_budget:.0%} to {budget:.0%}"
    keeps = "a tensor per block" if schedule.has_fractions else "two latents per conditioning"
    reason = f"; {schedule.provenance['why']}" if schedule.provenance.get("why") else ""
    promise = promise_of(schedule) if not target and not brought else None
    told = f"; it {tell(promise)}" if promise is not None else ""
    return f"auto: '{schedule.name}' is nearest to {wanted}{brought}; it keeps {keeps}{told}{reason}"


def _unspent(schedule: Schedule) -> float:
    """By how much a schedule may miss the budget it was made for: whole steps by less than one."""
    return OWN_TOLERANCE if schedule.has_fractions else 1.0 / len(schedule.points)


def _control(mode: str, schedule: Schedule, budget: float) -> Schedule:
    """The control's own shape, on the noise levels of the schedule it is compared with."""
    if mode == UNIFORM:
        return uniform("uniform", budget, schedule.sigmas)
    return whole_steps(mode, max(2, round(1.0 / budget)), schedule.sigmas)


def schedule_stamp(name: str) -> Hashable:
    """Changes when the file behind a name changes; for `auto`, when any schedule does."""
    files = [path for folder in schedule_folders() for path in list_schedules(folder).values()]
    if name != AUTO:
        files = [path for path in files if path.stem == name]
    stats = [(path, path.stat()) for path in files if path.exists()]
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)
