"""Budgets over noise levels: the schedule object, its file format, its shapes and the bundled files."""

from .expected import Promise, promise_from, promise_of
from .forecast import STANDARD_FORECAST, TIME_NAMES, Forecast
from .format import FORMAT_NAME, FORMAT_VERSION, load, parse, save, serialise
from .resample import budgets_for
from .schedule import AUTO, LONGEST_NAME, MODE_NAMES, Schedule, check_name, check_new_name
from .selection import (
    OWN_TOLERANCE,
    brought_to,
    bundled_folder,
    forecast_for,
    guidance_of,
    list_schedules,
    off_way,
    pick,
    pick_by_way,
    steps_as_fine,
)
from .shapes import flow_sigmas, leaning, rhythm, uniform, whole_steps
from .step_skipping import without_fractions

__all__ = [
    "AUTO",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "LONGEST_NAME",
    "MODE_NAMES",
    "OWN_TOLERANCE",
    "STANDARD_FORECAST",
    "TIME_NAMES",
    "Forecast",
    "Promise",
    "Schedule",
    "brought_to",
    "budgets_for",
    "bundled_folder",
    "check_name",
    "check_new_name",
    "flow_sigmas",
    "forecast_for",
    "guidance_of",
    "leaning",
    "list_schedules",
    "load",
    "off_way",
    "parse",
    "pick",
    "pick_by_way",
    "promise_from",
    "promise_of",
    "rhythm",
    "save",
    "serialise",
    "steps_as_fine",
    "uniform",
    "whole_steps",
    "without_fractions",
]
