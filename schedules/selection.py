"""Selection among saved schedules: those in folders, and which of them suits a run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import ScheduleError
from ..limits import MAX_CFG
from .density import has_same_steps, span_of
from .expected import EXPECTED_KEY, usable_cfg
from .forecast import DEFAULT_FORECAST, Forecast, usual_forecast
from .format import load
from .schedule import ANY_FAMILY, Schedule

OWN_MEAN_TOLERANCE = 0.005
SAME_BUDGET = 0.015  # schedules whose budgets differ by less are chosen between by their steps and guidance
USUAL_STEPS = 30
# Taken for schedules that state no guidance scale.
USUAL_GUIDANCE = 6.0
ALIKE_STEPS, ALIKE_GUIDANCE = 1.1, 1.25  # ratios up to which `auto` takes a saved schedule for a run
GUIDANCE_WEIGHT = 2.0  # of the logarithm of a ratio of guidance scales, where that of steps weighs 1


def list_schedules(folder: Path) -> dict[str, Path]:
    """Map names to regular files in a folder, sorted; no file is opened."""
    if not os.path.isdir(folder):
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.json")) if os.path.isfile(path)}


def load_schedules(folders: Iterable[Path]) -> tuple[Schedule, ...]:
    """Load the schedules of folders, in their order.

    Files that cannot be read, or state a guidance scale that no run can have, are skipped.
    """
    found = []
    for folder in folders:
        for path in list_schedules(folder).values():
            try:
                schedule = load(path)
            except ScheduleError:
                continue
            if None not in map(usable_cfg, _guidance_entries(schedule)):
                found.append(schedule)
    return tuple(found)


def pick(
    budget: float,
    family: str,
    schedules: Iterable[Schedule],
    steps: int = USUAL_STEPS,
    guidance: float = USUAL_GUIDANCE,
) -> Schedule:
    """Pick the schedule made for the nearest budget and, among those, for the most similar runs.

    Among equals, one that states its guidance scale comes first, then one of the family itself. Raises ScheduleError
    where none is for the family or for any.
    """
    usable = [schedule for schedule in schedules if schedule.family in (family, ANY_FAMILY)]
    if not usable:
        raise ScheduleError(f"No schedule for the model family '{family}' was found.")
    nearest = min(_budget_distance(schedule, budget) for schedule in usable)
    near = [schedule for schedule in usable if _budget_distance(schedule, budget) <= nearest + SAME_BUDGET]

    def distance(schedule: Schedule) -> tuple:
        config = round(config_distance(schedule, steps, guidance), 6)
        unstated = _stated_guidance(schedule) is None
        return config, unstated, schedule.family != family, _budget_distance(schedule, budget)

    return min(near, key=distance)


def pick_alike(
    budget: float, family: str, schedules: Iterable[Schedule], levels: Sequence[float], guidance: float | None
) -> Schedule | None:
    """Pick a schedule that was made for this budget and for runs like this one; None where there is none.

    levels: the run's noise levels; guidance: None: of any scale.
    """

    def is_alike(schedule: Schedule) -> bool:
        steps = equivalent_steps(schedule, levels) / len(schedule.points)
        stated = _stated_guidance(schedule)
        scale = 1.0 if stated is None or not guidance else guidance / stated
        return (
            schedule.family in (family, ANY_FAMILY)
            and _budget_distance(schedule, budget) <= SAME_BUDGET
            and 1.0 / ALIKE_STEPS <= steps <= ALIKE_STEPS
            and 1.0 / ALIKE_GUIDANCE <= scale <= ALIKE_GUIDANCE
        )

    alike = [schedule for schedule in schedules if is_alike(schedule)]
    if not alike:
        return None
    steps = equivalent_steps(alike[0], levels)
    return pick(budget, family, alike, steps, guidance or USUAL_GUIDANCE)


def guidance_of(schedule: Schedule) -> float:
    """Return the guidance scale that a schedule was made for."""
    return _stated_guidance(schedule) or USUAL_GUIDANCE


def _stated_guidance(schedule: Schedule) -> float | None:
    return next(filter(None, map(usable_cfg, _guidance_entries(schedule))), None)


def _guidance_entries(schedule: Schedule) -> list[float]:
    """Return the guidance scales that a schedule's provenance states, also impossible ones; 0 counts as not stated."""
    expected = schedule.provenance.get(EXPECTED_KEY)
    entries = [schedule.provenance.get("guidance"), expected.get("cfg") if isinstance(expected, Mapping) else None]
    return [each for each in entries if isinstance(each, (int, float)) and not isinstance(each, bool) and each != 0]


def equivalent_steps(schedule: Schedule, sigmas: Sequence[float]) -> int:
    """Count the steps that a run would have if it covered all noise levels, with steps of the same size.

    A run covers a part of them where two samplers share the work, or where a clip is changed rather than made anew.
    """
    if len(sigmas) > 1 and has_same_steps(schedule, sigmas):
        return len(schedule.points)
    start, end = span_of(schedule, sigmas)
    return max(1, round((len(sigmas) - 1) / (end - start)))


def forecast_for(schedule: Schedule, guidance: float | None) -> Forecast:
    """Return the forecast settings for a run: the schedule's own if it has any, else the usual ones."""
    return usual_forecast(guidance) if schedule.forecast == DEFAULT_FORECAST else schedule.forecast


def config_distance(schedule: Schedule, steps: int, guidance: float) -> float:
    """Measure how far a run's steps and guidance are from those that a schedule was made for; 0 where equal."""
    off_steps = abs(math.log(len(schedule.points) / max(1, steps)))
    return off_steps + GUIDANCE_WEIGHT * abs(math.log(guidance_of(schedule) / min(max(guidance, 0.1), MAX_CFG)))


def target_budget(schedule: Schedule, budget: float | None) -> float | None:
    """Return the mean budget at which to place a schedule for a requested one; None: use it as it was found.

    One with partial steps that was found for the requested budget is used as found, with a smaller mean: a partial step
    takes more time than its share of tokens, and the search has already made the run as long as the budget allows.
    """
    if budget is None or budget >= 1.0 or not schedule.has_partial_steps:  # at a full budget no schedule matters
        return budget
    return None if _budget_distance(schedule, budget) < OWN_MEAN_TOLERANCE else budget


def _budget_distance(schedule: Schedule, budget: float) -> float:
    return round(abs(_intended_budget(schedule) - budget), 4)


def _intended_budget(schedule: Schedule) -> float:
    """Return the budget that a schedule was made for, which its mean budget often stays below."""
    stated = schedule.provenance.get("budget")
    if isinstance(stated, bool) or not isinstance(stated, (int, float)):
        return schedule.mean_budget
    return float(stated)
