"""The bundled schedules and folders of saved ones: listing, and picking one for a model and a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from ..errors import ScheduleError
from .format import load
from .schedule import Schedule

SAME_BUDGET = 0.015  # schedules nearer to each other are told apart by their steps


def bundled_folder() -> Path:
    """Where the schedules that ship with the pack lie."""
    return Path(__file__).parent / "bundled"


def list_schedules(folder: Path) -> dict[str, Path]:
    """Names to files in a folder, sorted; a file is listed without being opened."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


USUAL_STEPS = 30


def pick(budget: float, family: str, folders: Iterable[Path] | None = None, steps: int = USUAL_STEPS) -> Schedule:
    """The schedule of the family (else of any family) made for the nearest budget, and for about as many steps.

    A file that cannot be read is passed over. Raises ScheduleError when nothing is left.
    """
    fitting = _fitting(family, folders)
    nearest = min(_off_budget(schedule, budget) for schedule in fitting)
    alike = [schedule for schedule in fitting if _off_budget(schedule, budget) <= nearest + SAME_BUDGET]
    return min(alike, key=lambda schedule: (_off_steps(schedule, steps), _off_budget(schedule, budget), schedule.name))


def pick_by_steps(budget: float, family: str, folders: Iterable[Path] | None = None) -> dict[int, Schedule]:
    """As `pick`, for every number of steps that there are schedules for."""
    folders = list(folders) if folders is not None else None
    counts = sorted({len(schedule.points) for schedule in _fitting(family, folders)})
    picked = {steps: pick(budget, family, folders, steps) for steps in counts}
    return {steps: schedule for steps, schedule in picked.items() if len(schedule.points) == steps}


def _off_budget(schedule: Schedule, budget: float) -> float:
    """How far the budget it was made for is off; whole steps often spend less than that."""
    made_for = schedule.provenance.get("budget")
    if isinstance(made_for, bool) or not isinstance(made_for, (int, float)):
        made_for = schedule.mean_budget
    return round(abs(made_for - budget), 4)


def _off_steps(schedule: Schedule, steps: int) -> float:
    return abs(math.log(len(schedule.points) / max(1, steps)))


def _fitting(family: str, folders: Iterable[Path] | None) -> list[Schedule]:
    """Schedules of the family, else those of any. Raises ScheduleError when there are none."""
    candidates = []
    for folder in folders or (bundled_folder(),):
        for path in list_schedules(folder).values():
            try:
                candidates.append(load(path))
            except ScheduleError:
                continue
    fitting = [s for s in candidates if s.family == family] or [s for s in candidates if s.family == "any"]
    if not fitting:
        raise ScheduleError(f"No schedule for the model family '{family}' was found.")
    return fitting
