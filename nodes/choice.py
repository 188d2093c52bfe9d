"""From the widgets of `Astraea Accelerate` to a plan: which schedule, at what budget, with which controls."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from ..engine.plan import ATTENTION_WISHES as ATTENTION_CHOICES
from ..engine.plan import CACHE_POLICIES, Plan, make_plan
from ..errors import BudgetError
from ..host.folders import find_schedule, schedule_folders
from ..schedules import (
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
from ..schedules.promise import tell

AUTO = "auto"
UNKNOWN_FAMILY = "any"
OWN_MODE = "schedule's own"
UNIFORM = "uniform"
WHOLE_HOLD = "whole-step hold"
WHOLE_FORECAST = "whole-step forecast"
MODE_CHOICES = (OWN_MODE, "default", "paper", "random", UNIFORM, WHOLE_HOLD, WHOLE_FORECAST)
# What a control computes with; the others take the mode of their name.
MODE_OF_CONTROL = {UNIFORM: "default", WHOLE_HOLD: "hold", WHOLE_FORECAST: "forecast"}
LEAST_BUDGET, MOST_SPEEDUP = 0.2, 8.0


@dataclass(frozen=True)
class Wish:
    """The widgets' values. schedule: a name, `auto`, or a linked schedule; target_speedup 0: use the budget."""

    schedule: str | Schedule
    budget: float
    target_speedup: float = 0.0
    mode: str = OWN_MODE
    cache: str = "auto"
    attention: str = "auto"


def check_numbers(budget: float | None, target_speedup: float | None) -> None:
    """Raise BudgetError for values that cannot work; None is a value that is not known yet."""
    if budget is not None and not (math.isfinite(budget) and LEAST_BUDGET <= budget <= 1.0):
        raise BudgetError(
            f"The budget {budget:g} is outside {LEAST_BUDGET}...1.0. It is the share of the video's tokens to compute: "
            "0.4 computes 40 % of them, 1.0 changes nothing."
        )
    if not target_speedup:
        return
    if not (math.isfinite(target_speedup) and 1.0 <= target_speedup <= MOST_SPEEDUP):
        raise BudgetError(
            f"The target speed-up {target_speedup:g} is outside 1...{MOST_SPEEDUP:g}. "
            "2 means twice as fast; 0 means: use the budget instead."
        )


def check_words(mode: str | None, cache: str | None, attention: str | None) -> None:
    """Raise BudgetError for words that are not in their list; None is a value that is not known yet.

    ComfyUI 0.3.64 does not check them itself.
    """
    lists = {
        "Mode": (mode, MODE_CHOICES),
        "Cache": (cache, CACHE_POLICIES),
        "Attention": (attention, ATTENTION_CHOICES),
    }
    for what, (word, known) in lists.items():
        if word is not None and word not in known:
            raise BudgetError(f"{what} '{word}' is unknown; choose one of {', '.join(known)}.")


def choose_plan(wish: Wish, family: str) -> Plan:
    """The plan for a model of this family. Raises ScheduleError or BudgetError."""
    check_numbers(wish.budget, wish.target_speedup)
    check_words(wish.mode, wish.cache, wish.attention)
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
