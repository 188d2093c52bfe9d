"""Values of inputs, checked when a node runs: only then are linked ones known. Each message names the input."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from ..errors import InputError
from ..schedules import Schedule

MAX_NAMES_LISTED = 16  # of a list; the longest of Astraea's own has fewer


def number(name: str, value: Any, least: float, most: float, hint: str = "") -> float:
    """The value as a finite number of `least`...`most`. Raises InputError."""
    if not _is_number(value, Real) or not least <= value <= most:  # NaN is in no range
        raise _refused(name, f"a number from {least:g} to {most:g}", value, hint)
    return float(value)


def whole_number(name: str, value: Any, least: int, most: int, hint: str = "") -> int:
    """The value as a whole number of `least`...`most`. Raises InputError."""
    if not _is_number(value, Integral) or not least <= value <= most:
        raise _refused(name, f"a whole number from {least} to {most}", value, hint)
    return int(value)


def one_of(name: str, value: Any, known: Sequence[str]) -> str:
    """The value, which is one of a list. Raises InputError. ComfyUI 0.3.64 does not check lists itself."""
    if not isinstance(value, str) or value not in known:
        more = f" or {len(known) - MAX_NAMES_LISTED} others" if len(known) > MAX_NAMES_LISTED else ""
        raise _refused(name, f"one of {', '.join(known[:MAX_NAMES_LISTED])}{more}", value)
    return value


def text(name: str, value: Any) -> str:
    """The value as text. Raises InputError."""
    if not isinstance(value, str):
        raise _refused(name, "text", value)
    return value


def flag(name: str, value: Any) -> bool:
    """The value as true or false. Raises InputError: text such as "no" would count as true."""
    if not isinstance(value, bool):
        raise _refused(name, "true or false", value)
    return value


def schedule_of(name: str, value: Any) -> Schedule:
    """The value as a schedule. Raises InputError."""
    if not isinstance(value, Schedule):
        raise _refused(name, "a schedule from Astraea Schedule Load, Inline or Search", value)
    return value


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _refused(name: str, wanted: str, value: Any, hint: str = "") -> InputError:
    plain = value is None or isinstance(value, (bool, float, str)) or (isinstance(value, int) and abs(value) < 2**128)
    told = reprlib.repr(value) if plain else f"a {type(value).__name__}"
    return InputError(f"The input '{name}' takes {wanted}, not {told}." + (f" {hint}" if hint else ""))
