"""What the saved schedules promise, as lines of a tooltip. Asked for whenever the host reads the node's schema."""

from __future__ import annotations

import stat
from functools import lru_cache
from pathlib import Path

from ..errors import ScheduleError
from ..schedules import check_name, expected_of, list_schedules, load
from ..schedules.expected import describe

MOST_LINES = 12
MOST_FILES = 100  # a folder may hold any number; the newest ones are looked into


def schedule_tooltips(folder: Path) -> list[str]:
    """One line for each schedule in the folder that promises something, the newest files first.

    A file that cannot be read is passed over.
    """
    files = []
    for path in _listed(folder):
        try:
            facts = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(facts.st_mode):
            files.append((facts.st_mtime_ns, facts.st_size, path))
    lines: list[str] = []
    for changed, size, path in sorted(files, reverse=True)[:MOST_FILES]:
        if len(lines) == MOST_LINES:
            break
        lines += filter(None, [_line(path, changed, size)])
    return lines


def _listed(folder: Path) -> list[Path]:
    try:
        return list(list_schedules(folder).values())
    except OSError:
        return []


@lru_cache(maxsize=2 * MOST_FILES)
def _line(path: Path, changed: int, size: int) -> str:
    """The line of one file, "" where there is none; time and size are there to notice that the file is another."""
    try:
        promise = expected_of(load(path))
        return f"'{check_name(path.stem)}' {describe(promise)}" if promise is not None else ""
    except (ScheduleError, ArithmeticError):  # ArithmeticError: integers too large for a float
        return ""
