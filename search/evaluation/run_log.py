"""Log of runs on disk, from which an interrupted search is resumed.

One JSON object per line with a checksum; lines that a crash cut off are skipped. Decisions are not logged: a search
makes the same ones again from the same outcomes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ...errors import SearchError
from ...files import open_regular, read_regular
from ...limits import MAX_STEPS
from ...schedules import Schedule
from ..problem.runner import Outcome

FORMAT = "astraea-search-memo-2"  # to be changed also if the engine computes other results: old outcomes would be wrong
MAX_BYTES = 256 * 2**20


def key_of(case: int, schedule: Schedule) -> str:
    """Return the key of an outcome within one sampling configuration."""
    forecast = schedule.forecast
    budgets = " ".join(f"{budget:.6g}" for budget in schedule.budgets)
    settings = f"{forecast.onset:.6g} {forecast.reach:.6g} {forecast.response:.6g} {forecast.swing:.6g}"
    return f"{case}|{schedule.mode}|{settings}|{budgets}"


class RunLog:
    """Outcomes by key, in memory and, if a path is given, in a file. Raises SearchError if the file cannot be used.

    skipped: number of lines of the file that could not be read.
    """

    def __init__(self, path: Path | None = None, identity: str = ""):
        self.path, self.identity, self.skipped = path, identity, 0
        self._outcomes: dict[str, Outcome] = {}
        self._file: TextIO | None = None
        if path is not None:
            self._read(path)

    def __len__(self) -> int:
        return len(self._outcomes)

    def steps_computed(self) -> float:
        """Sum the full steps' worth of tokens that the logged runs of full-size clips computed."""
        return sum(outcome.computed for key, outcome in self._outcomes.items() if key[:1].isdigit())

    def get(self, key: str) -> Outcome | None:
        return self._outcomes.get(key)

    def put(self, key: str, outcome: Outcome) -> None:
        """Store an outcome; once this returns, it outlives this process."""
        self._outcomes[key] = outcome
        if self.path is None:
            return
        try:
            if self._file is None:
                self._file = self._open(self.path)
            self._file.write(_format_line({"key": key, **asdict(outcome)}))
            self._file.flush()
        except OSError as error:
            self.close()
            raise SearchError(
                f"The search's progress cannot be written to '{self.path}' ({error.strerror}). Free some disk space or "
                "make the folder writable; runs logged so far are kept."
            ) from None

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _open(self, path: Path) -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8")
        if not _ends_with_newline(path):
            file.write("\n")
        file.write(_format_line({"format": FORMAT, "identity": self.identity}))  # of the lines after it
        return file

    def _read(self, path: Path) -> None:
        try:
            content = read_regular(path, MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise SearchError(
                f"The search's progress '{path}' cannot be read ({error.strerror}). Move it away."
            ) from None
        if len(content) > MAX_BYTES:
            raise SearchError(f"'{path}' is too large to be the progress of a search; move it away.")
        is_ours = True
        for line in content.decode("utf-8", "replace").splitlines():
            data = _parse_line(line)
            if data is None:
                self.skipped += 1
            elif "format" in data:
                is_ours = data["format"] == FORMAT and data.get("identity") == self.identity
            elif is_ours and (outcome := _parse_outcome(data)) is not None:
                self._outcomes[data["key"]] = outcome
            else:
                self.skipped += 1


def _ends_with_newline(path: Path) -> bool:
    """Tell whether the file is empty or its last line is complete."""
    with os.fdopen(open_regular(path), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")


def _format_line(data: dict[str, Any]) -> str:
    text = json.dumps(data, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _parse_line(line: str) -> dict[str, Any] | None:
    checksum, _, text = line.partition(" ")
    if checksum != f"{zlib.crc32(text.encode('utf-8', 'replace')):08x}":
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _parse_outcome(data: dict[str, Any]) -> Outcome | None:
    """Return the outcome of a line; None if something is missing or no run can have this outcome."""
    try:
        steps = data["steps"]
        if not (isinstance(data["key"], str) and type(steps) is int and 0 <= steps <= MAX_STEPS):
            return None
        responses = data["responses"] and _listed(data["responses"], steps)  # may be empty
        outcome = Outcome(
            loss=_amount(data["loss"], largest=math.inf),
            steps=steps,
            # Losses of a run that is not finite may be NaN.
            losses=tuple(_number(value) for value in _listed(data["losses"], steps)),
            computed=_amount(data["computed"]),
            seconds=tuple(_amount(value) for value in _listed(data["seconds"], steps)),
            kinds=tuple(str(kind) for kind in _listed(data["kinds"], steps)),
            responses=tuple(None if each is None else _amount(each) for each in responses),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return outcome


def _listed(value: Any, count: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{count} entries were expected")
    return value


def _amount(value: Any, largest: float = sys.float_info.max) -> float:
    number = _number(value)
    if not 0.0 <= number <= largest:
        raise ValueError(f"{number} is outside 0...{largest}")
    return number


def _number(value: Any) -> float:
    """Return a number as a float. Raises TypeError, and OverflowError for integers that are too large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
