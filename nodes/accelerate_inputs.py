"""Makes a plan from the widgets of `Astraea Accelerate`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from ..engine.planning.modes import DEFAULT, PAPER, RANDOM
from ..engine.planning.plan import Plan, make_plan
from ..engine.state.residual_store import CACHE_POLICIES, NO_CACHE
from ..errors import InputError
from ..host.folders import find_schedule, user_schedule_folder
from ..kernels import BACKEND_CHOICES
from ..limits import MAX_TARGET_SPEEDUP, MIN_BUDGET
from ..schedules import AUTO, Schedule, list_schedules, load_schedules, token_steps
from .checks import number, one_of, text

WHOLE_STEPS, TOKEN_STEPS = "whole steps", "token steps"
DEFAULT_BUDGET = 0.5
MODE_CHOICES = (AUTO, WHOLE_STEPS, TOKEN_STEPS, PAPER.name)
# Choices of former versions, as saved workflows hold them.
FORMER_MODES = {
    "schedule's own": AUTO,
    DEFAULT.name: AUTO,
    RANDOM.name: TOKEN_STEPS,
    "uniform": TOKEN_STEPS,
    "whole-step hold": WHOLE_STEPS,
    "whole-step forecast": WHOLE_STEPS,
}
BUDGET_HINT = "It is the share of the model's work that is done: 0.4 is 40 % of it, 1 changes nothing."
TARGET_HINT = "2 means twice as fast; 0 means that the budget is used."


@dataclass(frozen=True)
class AccelerateInputs:
    """Values of the widgets. schedule: a name, `auto`, or a linked schedule; target_speedup: 0 to use the budget."""

    schedule: str | Schedule
    budget: float
    target_speedup: float = 0.0
    mode: str = AUTO
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
        mode=known_mode(inputs.mode),
        cache=one_of("cache", inputs.cache, CACHE_POLICIES),
        attention=one_of("attention", inputs.attention, BACKEND_CHOICES),
    )


def known_mode(mode: str) -> str:
    """Return one of MODE_CHOICES, also for a choice of former versions. Raises InputError."""
    former = FORMER_MODES.get(mode) if isinstance(mode, str) else None
    return former or one_of("mode", mode, MODE_CHOICES)


def choose_plan(inputs: AccelerateInputs) -> Plan:
    """Make the plan of a node. Raises InputError, ScheduleError or BudgetError."""
    inputs = validate(inputs)
    target = inputs.target_speedup or None
    schedule = _schedule_of(inputs)
    own_mean = schedule is not None and inputs.schedule != AUTO
    return make_plan(
        schedule,
        mode={TOKEN_STEPS: DEFAULT.name, PAPER.name: PAPER.name}.get(inputs.mode),
        budget=None if target or own_mean else inputs.budget,
        target_speedup=target,
        cache=NO_CACHE
        if inputs.mode == WHOLE_STEPS
        else inputs.cache,  # without a cache whole steps alone are possible
        attention=inputs.attention,
        library=_saved(inputs) if schedule is None else (),
    )


def _schedule_of(inputs: AccelerateInputs) -> Schedule | None:
    """Return the schedule that is linked, named, or that a mode brings; None where it is chosen when the run begins."""
    if isinstance(inputs.schedule, Schedule):
        return inputs.schedule
    if inputs.schedule != AUTO:
        return find_schedule(inputs.schedule)
    if inputs.mode in (AUTO, WHOLE_STEPS):
        return None
    budget = 1.0 / inputs.target_speedup if inputs.target_speedup else inputs.budget
    return token_steps(inputs.mode, budget)


def _saved(inputs: AccelerateInputs) -> list[Schedule]:
    """Return the saved schedules that `auto` may take; in mode WHOLE_STEPS, those of whole steps."""
    saved = load_schedules([user_schedule_folder()])
    return [each for each in saved if inputs.mode == AUTO or not each.has_partial_steps]


def schedule_stamp(name: str) -> Hashable:
    """Return a value that changes with the schedule's file; for `auto`, with any schedule's file."""
    files = list(list_schedules(user_schedule_folder()).values())
    if name != AUTO:
        files = [path for path in files if path.stem == name]
    stats = [(path, path.stat()) for path in files if path.exists()]
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)
