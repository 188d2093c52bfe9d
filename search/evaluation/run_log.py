"""What has been measured, kept on disk as it happens: a search that ends early goes on where it was.

One JSON object a line with a checksum; a line that a crash cut off is passed over. No decision is kept: a search makes
the same ones again from the same outcomes.
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
from ...schedules import Schedule
from ..problem import Outcome

FORMAT = "astraea-search-memo-1"  # another number where the engine computes otherwise, too: nothing old may count
MAX_BYTES = 256 * 2**20
MAX_STEPS = 10_000  # that a run may have


def key_of(case: int, schedule: Schedule) -> str:
    """What an outcome depends on within one setting."""
    forecast = schedule.forecast
    budgets = " ".join(f"{budget:.6g}" for budget in schedule.budgets)
    curvature = "" if forecast.curvature == 1.0 else f" {forecast.curvature:.6g}"
    last = f" last {forecast.final_step_gain:.6g}" if forecast.final_step_gain else ""
    way = f"{forecast.prior_gain:.6g} {forecast.extrapolation_axis} {forecast.interpolation_axis}{curvature}{last}"
    return f"{case}|{schedule.mode}|{way}|{budgets}"


class RunLog:
    """Outcomes by key, in memory and, where a path is given, in a file. Raises SearchError where it cannot be written.

    skipped: lines of the file that could not be read.
    """

    def __init__(self, path: Path | None = None, identity: str = ""):
        self.path, self.identity, self.skipped = path, identity, 0
        self._outcomes: dict[str, Outcome] = {}
        self._file: TextIO | None = None
        if path is not None:
            self._read(path)

    def __len__(self) -> int:
        return len(self._outcomes)

    def get(self, key: str) -> Outcome | None:
        return self._outcomes.get(key)

    def put(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome; it is on disk when this returns."""
        self._outcomes[key] = outcome
        if self.path is None:
            return
        try:
            if self._file is None:
                self._file = self._opened(self.path)
            self._file.write(_line({"key": key, **asdict(outcome)}))
            self._file.flush()
        except OSError as error:
            self.close()
            raise SearchError(
                f"The search's progress cannot be written to '{self.path}' ({error.strerror}). Make room or make the "
                "folder writable; what is there already is kept."
            ) from None

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _opened(self, path: Path) -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8")
        if not _ends_with_a_line(path):
            file.write("\n")
        file.write(_line({"format": FORMAT, "identity": self.identity}))  # whatever the lines before it say
        return file

    def _read(self, path: Path) -> None:
        try:
            content = read_regular(path, MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise SearchError(
                f"The search's progress '{path}' cannot be read ({error.strerror}). Move away what lies there."
            ) from None
        if len(content) > MAX_BYTES:
            raise SearchError(f"'{path}' is too large to be the progress of a search; move it away.")
        ours = True
        for line in content.decode("utf-8", "replace").splitlines():
            data = _data(line)
            if data is None:
                self.skipped += 1
            elif "format" in data:
                ours = data["format"] == FORMAT and data.get("identity") == self.identity
            elif ours and (outcome := _outcome(data)) is not None:
                self._outcomes[data["key"]] = outcome
            else:
                self.skipped += 1


def _ends_with_a_line(path: Path) -> bool:
    """Whether what is appended begins a line: the file is empty, or the last line was not cut off."""
    with os.fdopen(open_regular(path), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")


def _line(data: dict[str, Any]) -> str:
    text = json.dumps(data, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _data(line: str) -> dict[str, Any] | None:
    checksum, _, text = line.partition(" ")
    if checksum != f"{zlib.crc32(text.encode('utf-8', 'replace')):08x}":
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _outcome(data: dict[str, Any]) -> Outcome | None:
    """The outcome that a line tells; None where something is missing or no run can have come to it."""
    try:
        steps = data["steps"]
        if not (isinstance(data["key"], str) and type(steps) is int and 0 <= steps <= MAX_STEPS):
            return None
        responses = data["responses"] and _listed(data["responses"], steps)  # a bench may tell none
        outcome = Outcome(
            loss=_amount(data["loss"], most=math.inf),
            steps=steps,
            # Of a run that was not finite, not even the losses need be numbers.
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


def _amount(value: Any, most: float = sys.float_info.max) -> float:
    number = _number(value)
    if not 0.0 <= number <= most:
        raise ValueError(f"{number} is outside 0...{most}")
    return number


def _number(value: Any) -> float:
    """The value where it is a number. Raises OverflowError for integers beyond what floats can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
