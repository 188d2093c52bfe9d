"""What has been measured, kept on disk as it happens: a search that ends early goes on where it was.

One JSON object a line with a checksum; a line that a crash cut off is passed over. No decision is kept: a search makes
the same ones again from the same outcomes.
"""

from __future__ import annotations

import contextlib
import json
import math
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ..errors import SearchError
from ..schedules import Schedule
from .problem import Outcome

FORMAT = "astraea-search-memo-1"  # another number where the engine computes otherwise, too: nothing old may count
MAX_BYTES = 256 * 2**20


def key_of(case: int, schedule: Schedule) -> str:
    """What an outcome depends on within one setting."""
    forecast = schedule.forecast
    budgets = " ".join(f"{budget:.6g}" for budget in schedule.budgets)
    bend = "" if forecast.bend == 1.0 else f" {forecast.bend:.6g}"
    last = f" last {forecast.last_response:.6g}" if forecast.last_response else ""
    way = f"{forecast.expected:.6g} {forecast.along} {forecast.corrected_along}{bend}{last}"
    return f"{case}|{schedule.mode}|{way}|{budgets}"


class Memo:
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
        complete = not path.exists() or path.stat().st_size == 0 or path.read_bytes()[-1:] == b"\n"
        file = path.open("a", encoding="utf-8")
        if not complete:
            file.write("\n")
        file.write(_line({"format": FORMAT, "identity": self.identity}))  # whatever the lines before it say
        return file

    def _read(self, path: Path) -> None:
        try:
            if not path.exists():
                return
            if path.stat().st_size > MAX_BYTES:
                raise SearchError(f"'{path}' is too large to be the progress of a search; move it away.")
            lines = path.read_bytes().decode("utf-8", "replace").splitlines()
        except OSError as error:
            raise SearchError(f"The search's progress '{path}' cannot be read ({error.strerror}).") from None
        ours = True
        for line in lines:
            data = _data(line)
            if data is None:
                self.skipped += 1
            elif "format" in data:
                ours = data["format"] == FORMAT and data.get("identity") == self.identity
            elif ours and (outcome := _outcome(data)) is not None:
                self._outcomes[data["key"]] = outcome
            else:
                self.skipped += 1


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
    try:
        outcome = Outcome(
            loss=float(data["loss"]),
            steps=int(data["steps"]),
            losses=tuple(float(value) for value in data["losses"]),
            computed=float(data["computed"]),
            seconds=tuple(float(value) for value in data["seconds"]),
            kinds=tuple(str(kind) for kind in data["kinds"]),
            responses=tuple(None if value is None else float(value) for value in data["responses"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return outcome if isinstance(data.get("key"), str) and not math.isnan(outcome.loss) else None
