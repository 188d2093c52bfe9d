"""Makes a plan from the widgets of `Astraea Accelerate`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from ..engine.planning.modes import DEFAULT, FORECAST, HOLD, PAPER, RANDOM
from ..engine.planning.plan import Plan, make_plan
from ..engine.state.residual_store import CACHE_POLICIES, NO_CACHE
from ..errors import InputError
from ..host.folders import find_schedule, schedule_folders, user_schedule_folder
from ..kernels import BACKEND_CHOICES
from ..limits import MAX_TARGET_SPEEDUP, MIN_BUDGET
from ..schedules import AUTO, OWN_MEAN_TOLERANCE, Schedule, every_nth, list_schedules, load_schedules, pick, uniform
from ..schedules.schedule import ANY_FAMILY
from .checks import number, one_of, text

OWN_MODE = "schedule's own"
UNIFORM = "uniform"
WHOLE_HOLD = "whole-step hold"
WHOLE_FORECAST = "whole-step forecast"
MODE_CHOICES = (OWN_MODE, DEFAULT.name, PAPER.name, RANDOM.name, UNIFORM, WHOLE_HOLD, WHOLE_FORECAST)
# Choices for comparison that bring their own schedule, and the mode of each; the other choices name a mode.
MODE_OF_CONTROL = {UNIFORM: DEFAULT.name, WHOLE_HOLD: HOLD.name, WHOLE_FORECAST: FORECAST.name}
BUDGET_HINT = "It is the share of the model's work that is done: 0.4 is 40 % of it, 1 changes nothing."
TARGET_HINT = "2 means twice as fast; 0 means that the budget is used."


@dataclass(frozen=True)
class AccelerateInputs:
    """Values of the widgets. schedule: a name, `auto`, or a linked schedule; target_speedup: 0 to use the budget."""

    schedule: str | Schedule
    budget: float
    target_speedup: float = 0.0
    mode: str = OWN_MODE
    cache: str = "auto"
    attention: str = "auto"


def validate(inputs: AccelerateInputs) -> AccelerateInputs:
    """Return the inputs with values of the right types. Raises InputError for a value that cannot work."""
    schedule = inputs.schedule if isinstance(inputs.schedule, Schedule) else text("schedule", inputs.schedule)
    target = number("target_speedup", inputs.target_speedup, 0.0, MAX_TARGET_SPEEDUP, TARGET_HINT)
    if 0.0 < target < 1.0:
        allowed = f"0, or 1 to {MAX_TARGET_SPEEDUP:g}"
        raise InputError(f"The input 'target_speedup' takes {allowed}, not {target:g}. {TARGET_HINT}")
    return replace(
        inputs,
        schedule=schedule,
        budget=number("budget", inputs.budget, MIN_BUDGET, 1.0, BUDGET_HINT),
        target_speedup=target,
        mode=one_of("mode", inputs.mode, MODE_CHOICES),
        cache=one_of("cache", inputs.cache, CACHE_POLICIES),
        attention=one_of("attention", inputs.attention, BACKEND_CHOICES),
    )


def choose_plan(inputs: AccelerateInputs, family: str) -> Plan:
    """Make the plan for a model of this family. Raises InputError, ScheduleError or BudgetError."""
    inputs = validate(inputs)
    target = inputs.target_speedup or None
    if inputs.schedule == AUTO and (inputs.mode == OWN_MODE or family == ANY_FAMILY):
        library = load_schedules([user_schedule_folder()])
        return make_plan(
            None,
            budget=None if target else inputs.budget,
            target_speedup=target,
            cache=inputs.cache,
            attention=inputs.attention,
            library=library,
        )
    schedule, budget = _schedule_and_budget(inputs, family)
    if inputs.mode in MODE_OF_CONTROL:
        budget = schedule.mean_budget if budget is None else budget
        schedule = _control(inputs.mode, schedule, budget)
    mode = None if inputs.mode == OWN_MODE else MODE_OF_CONTROL.get(inputs.mode, inputs.mode)
    # Without a cache the engine computes whole steps only, as these controls require.
    cache = NO_CACHE if inputs.mode in (WHOLE_HOLD, WHOLE_FORECAST) else inputs.cache
    return make_plan(
        schedule,
        mode=mode,
        budget=None if target else budget,
        target_speedup=target,
        cache=cache,
        attention=inputs.attention,
    )


def _schedule_and_budget(inputs: AccelerateInputs, family: str) -> tuple[Schedule, float | None]:
    """Return the schedule and the mean budget to use it at, which is None for its own mean."""
    if isinstance(inputs.schedule, Schedule):
        return inputs.schedule, None
    if inputs.schedule != AUTO:
        return find_schedule(inputs.schedule), None
    # Other modes are compared on one schedule for this budget, whatever the run's steps.
    budget = 1.0 / inputs.target_speedup if inputs.target_speedup else inputs.budget
    schedule = pick(budget, family, load_schedules(schedule_folders()))
    is_own = abs(schedule.mean_budget - budget) < OWN_MEAN_TOLERANCE
    return schedule, max(budget, schedule.mean_budget) if is_own else budget


def _control(mode: str, schedule: Schedule, budget: float) -> Schedule:
    """Return the control's schedule, on the noise levels of the schedule that it is compared with."""
    if mode == UNIFORM:
        return uniform("uniform", budget, schedule.sigmas)
    return every_nth(mode, max(2, round(1.0 / budget)), schedule.sigmas)


def schedule_stamp(name: str) -> Hashable:
    """Return a value that changes with the schedule's file; for `auto`, with any schedule's file."""
    files = [path for folder in schedule_folders() for path in list_schedules(folder).values()]
    if name != AUTO:
        files = [path for path in files if path.stem == name]
    stats = [(path, path.stat()) for path in files if path.exists()]
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)
