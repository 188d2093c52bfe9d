"""Result files: where they lie, and how they are read and written. Standard library only."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, mean, minimum, maximum and all of some figures."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "all": [round(value, 6) for value in values],
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes all or nothing: a run that is killed leaves the last complete state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """An earlier result; None if there is none that can be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Applies `change` to the result as it stands now; several processes may add to one file (not on Windows)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        result = read_json(path) or {}
        change(result)
        write_json(path, result)
