"""Where things lie: schedules and what searches have measured, in folders of the user's; bundled schedules."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

import folder_paths

from ..engine.modes import check_mode
from ..errors import ScheduleError, SearchError
from ..schedules import Schedule, bundled_folder, check_name, list_schedules, load

CLOSE_NAMES, MAX_NAMES_LISTED = 3, 12  # in the message about a name that is none
PROBE_BYTES = 64 * 1024  # more than a schedule: a full disk is noticed


def user_schedule_folder() -> Path:
    """Schedules that the user has saved or found; made when the first is written."""
    return Path(folder_paths.get_user_directory()) / "astraea" / "schedules"


def user_search_folder() -> Path:
    """What searches have measured, so that one that was stopped goes on where it was."""
    return Path(folder_paths.get_user_directory()) / "astraea" / "search"


def check_writable(folder: Path) -> None:
    """Raise SearchError where no file can be made in the folder; it is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="probe-", suffix=".part") as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
    except OSError as error:
        raise SearchError(
            f"Nothing can be written to '{folder}' ({error.strerror}), where the search keeps its results. Make the "
            "folder writable or make room on its disk, then queue again. Nothing has been started."
        ) from None


def schedule_folders() -> tuple[Path, Path]:
    return user_schedule_folder(), bundled_folder()


def schedule_names() -> list[str]:
    """Names of all schedules, the user's first; a saved one hides a bundled one of the same name."""
    names = [name for folder in schedule_folders() for name in list_schedules(folder)]
    return list(dict.fromkeys(names))


def find_schedule(name: str) -> Schedule:
    """The saved or bundled schedule of that name. Raises ScheduleError; a name never becomes a path elsewhere."""
    check_name(name)
    for folder in schedule_folders():
        path = list_schedules(folder).get(name)
        if path is not None:
            return check_mode(load(path))
    raise ScheduleError(f"There is no schedule named '{name}'. {_names_to_choose_from(name)}")


def _names_to_choose_from(name: str) -> str:
    """The names that someone may have meant: those much like it, and what the user has saved."""
    alike = difflib.get_close_matches(name, schedule_names(), CLOSE_NAMES)
    own = list(list_schedules(user_schedule_folder()))
    meant = f"Did you mean {' or '.join(map(repr, alike))}? " if alike else ""
    if not own:
        return meant + "You have saved none yet."
    more = f" and {len(own) - MAX_NAMES_LISTED} more" if len(own) > MAX_NAMES_LISTED else ""
    return f"{meant}Your saved ones: {', '.join(map(repr, own[:MAX_NAMES_LISTED]))}{more}."
