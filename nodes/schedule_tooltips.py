"""Lines of a tooltip with the expected results of saved schedules. Made whenever the host reads the node's schema."""

from __future__ import annotations

import stat
from functools import lru_cache
from pathlib import Path

from ..errors import ScheduleError
from ..schedules import check_name, expected_of, list_schedules, load
from ..schedules.expected import describe

MAX_LINES = 12
MAX_FILES = 100  # that are read, the newest first


def schedule_tooltips(folder: Path) -> list[str]:
    """Return a line for each schedule of the folder with an expected result, the newest files first.

    Files that cannot be read are passed over.
    """
    files = []
    for path in _list_files(folder):
        try:
            facts = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(facts.st_mode):
            files.append((facts.st_mtime_ns, facts.st_size, path))
    lines: list[str] = []
    for changed, size, path in sorted(files, reverse=True)[:MAX_FILES]:
        if len(lines) == MAX_LINES:
            break
        lines += filter(None, [_format_line(path, changed, size)])
    return lines


def _list_files(folder: Path) -> list[Path]:
    try:
        return list(list_schedules(folder).values())
    except OSError:
        return []


@lru_cache(maxsize=2 * MAX_FILES)
def _format_line(path: Path, changed: int, size: int) -> str:
    """Return the line of a file, "" without an expected result. Time and size make a changed file a new cache entry."""
    try:
        expected = expected_of(load(path))
        return f"'{check_name(path.stem)}' {describe(expected)}" if expected is not None else ""
    except (ScheduleError, ArithmeticError):  # ArithmeticError: integers too large for a float
        return ""
