"""Where things lie: saved schedules in the user's folder, the embedded model among the diffusion models."""

from __future__ import annotations

import tempfile
from pathlib import Path

import folder_paths

from ..errors import ScheduleError, SearchError
from ..schedules import Schedule, bundled_folder, check_name, list_schedules, load

TINY_FOLDER = Path(__file__).parent.parent / "tiny"
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
            return load(path)
    known = ", ".join(schedule_names()) or "none"
    raise ScheduleError(f"There is no schedule named '{name}'. Known ones: {known}.")


def register_tiny_model() -> None:
    """Let the host's own model loader list the embedded model."""
    folder_paths.add_model_folder_path("diffusion_models", str(TINY_FOLDER))
