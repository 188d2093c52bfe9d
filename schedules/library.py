"""The bundled schedules and folders of saved ones: listing, and picking one for a model and a budget."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import ScheduleError
from .format import load
from .schedule import Schedule


def bundled_folder() -> Path:
    """Where the schedules that ship with the pack lie."""
    return Path(__file__).parent / "bundled"


def list_schedules(folder: Path) -> dict[str, Path]:
    """Names to files in a folder, sorted; a file is listed without being opened."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def pick(budget: float, family: str, folders: Iterable[Path] | None = None) -> Schedule:
    """The schedule of the family (else of any family) whose mean budget is nearest.

    A file that cannot be read is passed over. Raises ScheduleError when nothing is left.
    """
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
    return min(fitting, key=lambda schedule: (abs(schedule.mean_budget - budget), schedule.name))
