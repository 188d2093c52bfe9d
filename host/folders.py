"""Folders of the user: schedules and search records."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

import folder_paths

from ..engine.planning.modes import check_mode
from ..errors import ScheduleError, SearchError
from ..schedules import AUTO, Schedule, check_name, former_schedule, list_schedules, load

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


def schedule_names() -> list[str]:
    """Return the names of the user's schedules; a file of the name that lets Astraea choose cannot be chosen."""
    return [name for name in list_schedules(user_schedule_folder()) if name != AUTO]


def find_schedule(name: str) -> Schedule:
    """Load the saved schedule of that name. Raises ScheduleError; a name never becomes a path elsewhere.

    Saved workflows may name one that shipped with the pack before it placed steps for every run.
    """
    path = list_schedules(user_schedule_folder()).get(name) if isinstance(name, str) else None
    if path is not None:  # whatever its name: a browser may have saved it as "found-0.50 (1).json"
        return check_mode(load(path))
    former = former_schedule(check_name(name))
    if former is not None:
        return former
    raise ScheduleError(f"There is no schedule named '{name}' on this computer. {_names_to_choose_from(name)}")


def _names_to_choose_from(name: str) -> str:
    """List the names that may have been meant: similar ones, and what the user has saved."""
    alike = difflib.get_close_matches(name, schedule_names(), MAX_CLOSE_NAMES)
    own = schedule_names()
    meant = f"Did you mean {' or '.join(map(repr, alike))}? " if alike else ""
    more = f" and {len(own) - MAX_NAMES_LISTED} more" if len(own) > MAX_NAMES_LISTED else ""
    saved = (
        f"Your saved ones: {', '.join(map(repr, own[:MAX_NAMES_LISTED]))}{more}." if own else "You have saved none yet."
    )
    # In a workflow of someone else's it is the schedule that is missing, not the workflow that is wrong.
    return (
        f"{meant}{saved} Choose 'auto', which needs none, or ask for the file '{name}.json', put it into "
        f"'{user_schedule_folder()}' and press R."
    )
