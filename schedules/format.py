"""Schedules as JSON text and files. Files from others are data: limited in size, fully checked, never evaluated."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from ..errors import ScheduleError
from ..files import bounded_int, read_regular, write_whole
from .forecast import DEFAULT_FORECAST, Forecast
from .schedule import ANY_FAMILY, DEFAULT_MODE, Schedule

FORMAT_NAME = "astraea-schedule"
FORMAT_VERSION = 1
MAX_BYTES = 256 * 1024
_KEYS = {"format", "version", "name", "family", "mode", "mean_budget", "points", "forecast", "provenance"}
_MAX_DEPTH = 8
_FORECAST_KEYS = {"onset", "reach", "response", "swing"}
# Of files that were saved when forecasts had other settings. These meant nothing to today's forecasts, and are ignored.
_FORMER_FORECAST_KEYS = {"expected", "along", "corrected_along", "bend", "last_response"}


def parse(text: str, source: str = "the text") -> Schedule:
    """Return the schedule in a JSON text. Raises ScheduleError with what is wrong and where."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ScheduleError(f"{source} is larger than {MAX_BYTES // 1024} KiB: it is not a schedule.")
    try:
        data = json.loads(text, parse_constant=_refuse_constant, parse_int=bounded_int)
    except (ValueError, RecursionError) as error:
        raise ScheduleError(f"{source} is not valid JSON ({error}).") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT_NAME:
        raise ScheduleError(f'{source} is not an Astraea schedule: it has no "format": "{FORMAT_NAME}".')
    version = data.get("version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ScheduleError(
            f"{source} has schedule format version {brief(version)}; this pack reads version {FORMAT_VERSION}. "
            "Update the pack, or save the schedule again with it."
        )
    missing, unknown = {"name", "points"} - data.keys(), data.keys() - _KEYS
    if missing or unknown:
        faults = [f"lacks {', '.join(sorted(missing))}"] if missing else []
        faults += [f"has unknown entries {brief(sorted(unknown))[1:-1]}"] if unknown else []
        raise ScheduleError(f"{source} {' and '.join(faults)}.")
    schedule = _schedule_from(data, source)
    stated = data.get("mean_budget")
    if stated is not None and not (_is_number(stated) and abs(stated - schedule.mean_budget) < 0.005):
        raise ScheduleError(
            f"{source}: mean_budget {brief(stated)} does not match the points ({schedule.mean_budget:.3f})."
        )
    return schedule


def _schedule_from(data: dict[str, Any], source: str) -> Schedule:
    points, provenance = data["points"], data.get("provenance", {})
    if not isinstance(points, list) or not all(isinstance(point, list) for point in points):
        raise ScheduleError(f'{source}: "points" must be a list of [sigma, budget] pairs.')
    if not isinstance(provenance, dict):
        raise ScheduleError(f'{source}: "provenance" must be an object.')
    _check_json(provenance, source)
    return Schedule(
        name=data["name"],
        points=tuple(tuple(point) for point in points),
        family=data.get("family", ANY_FAMILY),
        mode=data.get("mode", DEFAULT_MODE),
        forecast=forecast_from(data.get("forecast", {}), source),
        provenance=provenance,
    )


def forecast_from(data: Any, source: str) -> Forecast:
    """Return the settings in an object of a schedule file. Raises ScheduleError."""
    if not isinstance(data, Mapping) or not set(data) <= _FORECAST_KEYS | _FORMER_FORECAST_KEYS:
        known = sorted(_FORECAST_KEYS)
        raise ScheduleError(f'{source}: "forecast" must be an object with no other entries than {known}.')
    return Forecast(**{key: value for key, value in data.items() if key in _FORECAST_KEYS})


def forecast_values(forecast: Forecast) -> dict[str, Any]:
    """Return the settings as they stand in a file; `forecast_from` reads them."""
    return asdict(forecast)


def _check_json(value: Any, source: str, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise ScheduleError(f"{source}: provenance is nested too deeply.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ScheduleError(f"{source}: provenance holds a number that is not finite.")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ScheduleError(f"{source}: provenance holds text that is not Unicode.")  # half a letter: \ud83d alone
    items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        _check_json(item, source, depth + 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not allowed")


def serialise(schedule: Schedule) -> str:
    """Return the schedule as JSON text, one point per line."""
    head = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "name": schedule.name,
        "family": schedule.family,
        "mode": schedule.mode,
        "mean_budget": round(schedule.mean_budget, 4),
        **({"forecast": forecast_values(schedule.forecast)} if schedule.forecast != DEFAULT_FORECAST else {}),
        "provenance": dict(schedule.provenance),
    }
    points = ",\n    ".join(json.dumps([sigma, budget]) for sigma, budget in schedule.points)
    body = json.dumps(head, indent=2, ensure_ascii=False, allow_nan=False)
    return f'{body[:-2]},\n  "points": [\n    {points}\n  ]\n}}\n'


def load(path: Path) -> Schedule:
    """Load the schedule in a file. Raises ScheduleError, also for one that cannot be read or is not a regular file."""
    try:
        raw = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ScheduleError(f"Schedule file '{path.name}' cannot be read ({error.strerror}).") from None
    try:
        return parse(raw.decode("utf-8-sig"), f"Schedule file '{path.name}'")
    except UnicodeDecodeError:
        raise ScheduleError(f"Schedule file '{path.name}' is not UTF-8 text.") from None


def save(schedule: Schedule, folder: Path, *, overwrite: bool = False) -> Path:
    """Write `<name>.json` into the folder, completely or not at all; returns its path.

    Raises ScheduleError when the name is taken (unless `overwrite`), the folder cannot be written, or the file would be
    too large to be read again.
    """
    text = serialise(schedule)
    if len(text.encode()) > MAX_BYTES:
        raise ScheduleError(
            f"Schedule '{schedule.name}' would be larger than {MAX_BYTES // 1024} KiB and could not be loaded again: "
            "its provenance is too long."
        )
    path = folder / f"{schedule.name}.json"
    if path.exists() and not overwrite:
        raise ScheduleError(f"A schedule named '{schedule.name}' exists. Choose another name or allow overwriting.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise ScheduleError(f"The schedule cannot be written to '{folder}' ({error.strerror}).") from None
    return path
