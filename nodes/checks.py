"""Checks of input values when a node runs: only then linked values are known. Each message names the input."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from ..errors import InputError
from ..schedules import Schedule

MAX_NAMES_LISTED = 20  # of a list; Astraea's own lists have fewer


def number(name: str, value: Any, minimum: float, maximum: float, hint: str = "") -> float:
    """Return the value as a finite number of `minimum`...`maximum`. Raises InputError."""
    if not _is_number(value, Real) or not minimum <= value <= maximum:  # NaN is in no range
        raise _input_error(name, f"a number from {minimum:g} to {maximum:g}", value, hint)
    return float(value)


def whole_number(name: str, value: Any, minimum: int, maximum: int, hint: str = "") -> int:
    """Return the value as a whole number of `minimum`...`maximum`. Raises InputError."""
    if not _is_number(value, Integral) or not minimum <= value <= maximum:
        raise _input_error(name, f"a whole number from {minimum} to {maximum}", value, hint)
    return int(value)


def one_of(name: str, value: Any, known: Sequence[str]) -> str:
    """Return the value if it is in a list. Raises InputError. ComfyUI 0.3.64 does not check lists itself."""
    if not isinstance(value, str) or value not in known:
        more = f" or {len(known) - MAX_NAMES_LISTED} others" if len(known) > MAX_NAMES_LISTED else ""
        raise _input_error(name, f"one of {', '.join(known[:MAX_NAMES_LISTED])}{more}", value)
    return value


def text(name: str, value: Any) -> str:
    """Return the value if it is text. Raises InputError."""
    if not isinstance(value, str):
        raise _input_error(name, "text", value)
    return value


def flag(name: str, value: Any) -> bool:
    """Return the value if it is true or false. Raises InputError, also for text: "no" would count as true."""
    if not isinstance(value, bool):
        raise _input_error(name, "true or false", value)
    return value


def schedule_of(name: str, value: Any) -> Schedule:
    """Return the value if it is a schedule. Raises InputError."""
    if not isinstance(value, Schedule):
        raise _input_error(name, "a schedule from Astraea Schedule Load, Inline or Search", value)
    return value


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _input_error(name: str, wanted: str, value: Any, hint: str = "") -> InputError:
    plain = value is None or isinstance(value, (bool, float, str)) or (isinstance(value, int) and abs(value) < 2**128)
    shown = reprlib.repr(value) if plain else f"a {type(value).__name__}"
    return InputError(f"The input '{name}' takes {wanted}, not {shown}." + (f" {hint}" if hint else ""))
