"""Folders: the user's schedules and search records, and the bundled schedules."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

import folder_paths

from ..engine.planning.modes import check_mode
from ..errors import ScheduleError, SearchError
from ..schedules import FORMER_NAMES, Schedule, bundled_folder, check_name, list_schedules, load

MAX_CLOSE_NAMES, MAX_NAMES_LISTED = 3, 12  # in the message about an unknown name
PROBE_BYTES = 64 * 1024  # more than a schedule, to notice a full disk


def user_schedule_folder() -> Path:
    """Return the folder of schedules that the user has saved or found; it is created when the first is written."""
    return Path(folder_paths.get_user_directory()) / "astraea" / "schedules"


def user_search_folder() -> Path:
    """Return the folder of search records, from which a stopped search continues."""
    return Path(folder_paths.get_user_directory()) / "astraea" / "search"


def check_writable(folder: Path) -> None:
    """Raise SearchError if no file can be written in the folder, which is created where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="probe-", suffix=".part") as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
    except OSError as error:
        raise SearchError(
            f"Nothing can be written to '{folder}' ({error.strerror}), where the search keeps its results. Make the "
            "folder writable or make room on its disk, then search again. Nothing has been run yet."
        ) from None


def schedule_folders() -> tuple[Path, Path]:
    return user_schedule_folder(), bundled_folder()


def schedule_names() -> list[str]:
    """Return the names of all schedules, the user's first; a saved one hides a bundled one of the same name."""
    names = [name for folder in schedule_folders() for name in list_schedules(folder)]
    return list(dict.fromkeys(names))


def find_schedule(name: str) -> Schedule:
    """Load the saved or bundled schedule of that name. Raises ScheduleError; a name never becomes a path elsewhere."""
    check_name(name)
    for folder in schedule_folders():
        listed = list_schedules(folder)
        path = listed.get(name) or listed.get(FORMER_NAMES.get(name, ""))
        if path is not None:
            return check_mode(load(path))
    raise ScheduleError(f"There is no schedule named '{name}'. {_names_to_choose_from(name)}")


def _names_to_choose_from(name: str) -> str:
    """List the names that may have been meant: similar ones, and what the user has saved."""
    alike = difflib.get_close_matches(name, schedule_names(), MAX_CLOSE_NAMES)
    own = list(list_schedules(user_schedule_folder()))
    meant = f"Did you mean {' or '.join(map(repr, alike))}? " if alike else ""
    if not own:
        return meant + "You have saved none yet."
    more = f" and {len(own) - MAX_NAMES_LISTED} more" if len(own) > MAX_NAMES_LISTED else ""
    return f"{meant}Your saved ones: {', '.join(map(repr, own[:MAX_NAMES_LISTED]))}{more}."
