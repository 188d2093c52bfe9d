"""The bundled schedules and folders of saved ones: listing, and picking one for a model and a budget."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import ScheduleError
from .density import span_of
from .expected import KEY, MOST_CFG, usable_cfg
from .forecast import STANDARD_FORECAST, Forecast
from .format import load
from .schedule import Schedule

OWN_TOLERANCE = 0.005
SAME_BUDGET = 0.015  # schedules nearer to each other are told apart by their steps


# Of what a schedule was found on: beyond, its way to forecast is not trusted.
LEAST_COMPUTED, MOST_GUIDANCE = 0.75, 1.25


def bundled_folder() -> Path:
    """Where the schedules that ship with the pack lie."""
    return Path(__file__).parent / "bundled"


def list_schedules(folder: Path) -> dict[str, Path]:
    """Names to regular files in a folder, sorted; a file is listed without being opened."""
    if not os.path.isdir(folder):
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.json")) if os.path.isfile(path)}


USUAL_STEPS = 30
# Of schedules that do not say which guidance they were made for: those drawn by hand, which hold where steps are coarse
# and guidance is strong.
USUAL_GUIDANCE = 6.0
GUIDANCE_COUNTS = 2.0  # a ratio of guidance scales as much as the same ratio of steps to this power


def pick(
    budget: float,
    family: str,
    folders: Iterable[Path] | None = None,
    steps: int = USUAL_STEPS,
    guidance: float = USUAL_GUIDANCE,
) -> Schedule:
    """The schedule made for the nearest budget, and for about such runs; of equals one that says what guidance it was
    found with, then that of the family, then that of the first folder.

    A file that cannot be read is passed over. Raises ScheduleError when nothing is left.
    """
    return _best(_fitting(family, folders), family, budget, steps, guidance)


def pick_by_way(budget: float, family: str, folders: Iterable[Path] | None = None) -> list[Schedule]:
    """As `pick`, for every number of steps and guidance that there are schedules for."""
    fitting = _fitting(family, folders)
    ways = dict.fromkeys((len(schedule.points), guidance_of(schedule)) for schedule in fitting)
    picked = [(_best(fitting, family, budget, *way), way) for way in sorted(ways)]
    return [schedule for schedule, way in picked if (len(schedule.points), guidance_of(schedule)) == way]


def guidance_of(schedule: Schedule) -> float:
    """The guidance scale that it was made for."""
    return _told_guidance(schedule) or USUAL_GUIDANCE


def _told_guidance(schedule: Schedule) -> float | None:
    return next(filter(None, map(usable_cfg, _guidance_entries(schedule))), None)


def _guidance_entries(schedule: Schedule) -> list[float]:
    """The numbers of its provenance that say which guidance scale it was made for, sane or not; 0 says nothing."""
    promise = schedule.provenance.get(KEY)
    entries = [schedule.provenance.get("guidance"), promise.get("cfg") if isinstance(promise, Mapping) else None]
    return [each for each in entries if isinstance(each, (int, float)) and not isinstance(each, bool) and each != 0]


def steps_as_fine(schedule: Schedule, sigmas: Sequence[float]) -> int:
    """How many steps a run over all noise levels has that is as fine as this one, which may cover a part of them.

    Parts: two samplers one after the other, a clip that is changed and not made anew.
    """
    start, end = span_of(schedule, sigmas)
    return max(1, round((len(sigmas) - 1) / (end - start)))


def forecast_for(
    schedule: Schedule, sigmas: Sequence[float], budgets: Sequence[float], guidance: float | None
) -> Forecast:
    """The way to forecast in a run of these noise levels and budgets: its own, if it was found on runs of the kind.

    Trust gains where steps are fine and guidance is mild, and costs up to 6 dB where they are not; there the
    standard way is taken, by which the schedule's steps lose nothing.
    """
    start, end = span_of(schedule, sigmas)
    coarser = sum(budgets) < LEAST_COMPUTED * (end - start) * sum(schedule.budgets)
    stronger = (guidance or 0.0) > MOST_GUIDANCE * (_told_guidance(schedule) or float("inf"))
    return STANDARD_FORECAST if coarser or stronger else schedule.forecast


def off_way(schedule: Schedule, steps: int, guidance: float) -> float:
    """How far a run of so many steps is from those that a schedule was made for; 0 where it is of the same kind."""
    off_steps = abs(math.log(len(schedule.points) / max(1, steps)))
    return off_steps + GUIDANCE_COUNTS * abs(math.log(guidance_of(schedule) / min(max(guidance, 0.1), MOST_CFG)))


def brought_to(schedule: Schedule, budget: float | None) -> float | None:
    """The mean budget that a schedule is brought to where this one is asked for; None where it is used as it was found.

    That is where it was found for this budget, with steps in part: of these it has as many as the time pays for.
    """
    if budget is None or budget >= 1.0 or not schedule.has_fractions:  # a full budget is no matter of schedules
        return budget
    return None if _off_budget(schedule, budget) < OWN_TOLERANCE else budget


def _best(fitting: Sequence[Schedule], family: str, budget: float, steps: int, guidance: float) -> Schedule:
    nearest = min(_off_budget(schedule, budget) for schedule in fitting)
    alike = [schedule for schedule in fitting if _off_budget(schedule, budget) <= nearest + SAME_BUDGET]

    def distance(schedule: Schedule) -> tuple:
        off = round(off_way(schedule, steps, guidance), 6)
        return off, _told_guidance(schedule) is None, schedule.family != family, _off_budget(schedule, budget)

    return min(alike, key=distance)


def _off_budget(schedule: Schedule, budget: float) -> float:
    return round(abs(_made_for(schedule) - budget), 4)


def _made_for(schedule: Schedule) -> float:
    """The budget it was made for: whole steps often spend less than that, and steps in part compute less for it."""
    told = schedule.provenance.get("budget")
    if isinstance(told, bool) or not isinstance(told, (int, float)):
        return schedule.mean_budget
    return float(told)


def _fitting(family: str, folders: Iterable[Path] | None) -> list[Schedule]:
    """Schedules of the family and those of any. Raises ScheduleError when there are none."""
    candidates = []
    for folder in folders or (bundled_folder(),):
        for path in list_schedules(folder).values():
            try:
                schedule = load(path)
            except ScheduleError:
                continue
            # A guidance that no run can have: whoever wrote the file did not mean what it says.
            if None not in map(usable_cfg, _guidance_entries(schedule)):
                candidates.append(schedule)
    fitting = [schedule for schedule in candidates if schedule.family in (family, "any")]
    if not fitting:
        raise ScheduleError(f"No schedule for the model family '{family}' was found.")
    return fitting
