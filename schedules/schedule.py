"""The `Schedule`: the share of the tokens computed at each noise level. Data only, no files, no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from reprlib import repr as brief
from types import MappingProxyType
from typing import Any

from ..errors import ScheduleError
from ..limits import MAX_NAME_LENGTH, MAX_STEPS
from .forecast import DEFAULT_FORECAST, Forecast

DEFAULT_MODE = "default"
MAX_SIGMA = 1e6
AUTO = "auto"  # in place of a name: Astraea chooses
ANY_RUN_KEY = "for any run"  # in the provenance
ANY_FAMILY = "any"  # of a schedule for all models, and of a model that is not known
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9 ._+-]{{0,{MAX_NAME_LENGTH - 1}}}")
# Windows opens these devices under any extension, and in any folder.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789")}


def check_name(name: str) -> str:
    """Return the name if it is a plain one. It may become a file name: no separators, no leading dot.

    Raises ScheduleError otherwise.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith((".", " ")):
        raise ScheduleError(
            f"{brief(name)} is not a usable schedule name. Use letters, digits, spaces, '.', '_', '+' or '-', "
            f"starting with a letter or digit, at most {MAX_NAME_LENGTH} characters."
        )
    if name.partition(".")[0].rstrip().lower() in _DEVICES:
        raise ScheduleError(f"{brief(name)} is not a usable schedule name: Windows has a device of this name.")
    return name


def check_new_name(name: str) -> str:
    """Return the name if a schedule can be saved under it. Raises ScheduleError otherwise."""
    if check_name(name) == AUTO:
        raise ScheduleError(f"'{AUTO}' means that Astraea chooses; give the schedule another name.")
    return name


@dataclass(frozen=True)
class Schedule:
    """Budgets over the noise levels of one sampling run.

    points: `(sigma, budget)` per step of the grid the schedule was made for, sigma strictly falling and above 0
        (the final sigma 0 has no step), budget in 0...1; 0 is a skipped step.
    family: model family that it was made for ("wan"), or ANY_FAMILY.
    mode: how tokens are selected and the rest is estimated; `engine.planning.modes` knows the names.
    forecast: how its skipped steps are forecast.
    provenance: how, on what and with which figures it was found; plain JSON values.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    family: str = ANY_FAMILY
    mode: str = DEFAULT_MODE
    forecast: Forecast = DEFAULT_FORECAST
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        if not isinstance(self.family, str) or not re.fullmatch(r"[a-z0-9_-]{1,40}", self.family):
            raise ScheduleError(f"Schedule '{self.name}': family {brief(self.family)} is not a short lower-case word.")
        if not isinstance(self.mode, str) or not re.fullmatch(r"[a-z0-9_-]{1,40}", self.mode):
            raise ScheduleError(f"Schedule '{self.name}': mode {brief(self.mode)} is not a short lower-case word.")
        object.__setattr__(self, "points", _checked_points(self.name, self.points))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    def __deepcopy__(self, memo: dict) -> Schedule:
        return self  # immutable; the host deep-copies model options

    @property
    def sigmas(self) -> tuple[float, ...]:
        return tuple(sigma for sigma, _ in self.points)

    @property
    def budgets(self) -> tuple[float, ...]:
        return tuple(budget for _, budget in self.points)

    @property
    def mean_budget(self) -> float:
        return sum(self.budgets) / len(self.points)

    @property
    def has_partial_steps(self) -> bool:
        """Tell whether any step computes some of the tokens only; without such steps no per-block store is needed."""
        return any(0.0 < budget < 1.0 for budget in self.budgets)

    @property
    def is_for_any_run(self) -> bool:
        """Tell whether it was made for no particular run, so that its steps are placed anew in every one."""
        return self.provenance.get(ANY_RUN_KEY) is True

    def renamed(self, name: str) -> Schedule:
        return replace(self, name=name)


def _checked_points(name: str, points: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    if not 1 <= len(points) <= MAX_STEPS:
        raise ScheduleError(f"Schedule '{name}' has {len(points)} points; 1 to {MAX_STEPS} are allowed.")
    checked: list[tuple[float, float]] = []
    for number, point in enumerate(points, start=1):
        if len(point) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in point):
            raise ScheduleError(f"Schedule '{name}', point {number}: expected two numbers, sigma and budget.")
        sigma, budget = float(point[0]), float(point[1])
        if not math.isfinite(sigma) or not 0.0 < sigma <= MAX_SIGMA:
            raise ScheduleError(
                f"Schedule '{name}', point {number}: sigma {sigma} is outside 0...{MAX_SIGMA:g}, 0 excluded."
            )
        if not math.isfinite(budget) or not 0.0 <= budget <= 1.0:
            raise ScheduleError(f"Schedule '{name}', point {number}: budget {budget} is outside 0...1.")
        if checked and sigma >= checked[-1][0]:
            raise ScheduleError(f"Schedule '{name}', point {number}: sigma {sigma} does not fall below the one before.")
        checked.append((sigma, budget))
    return tuple(checked)
