"""What all node definitions share: the category, the pack's own types, and schema arguments the host may not know.

Some schema arguments came to ComfyUI later than the oldest version supported; where unknown they are left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..errors import AstraeaError

CATEGORY = "Astraea"
ScheduleType = io.Custom("ASTRAEA_SCHEDULE")
ReportType = io.Custom("ASTRAEA_REPORT")
LATER_ARGUMENTS = {"advanced", "search_aliases"}
NOT_LINKED = (
    object()
)  # default of an input in `validate_inputs`: a linked one arrives as None, an absent one not at all


def _for_this_host(target: Callable, arguments: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(target).parameters
    return {name: value for name, value in arguments.items() if name in known or name not in LATER_ARGUMENTS}


def field(kind: Any, name: str, **arguments: Any) -> Any:
    """An input of a type such as `io.Float`."""
    return kind.Input(name, **_for_this_host(kind.Input, arguments))


def node_schema(**arguments: Any) -> io.Schema:
    """The schema of one of the pack's nodes."""
    return io.Schema(category=CATEGORY, **_for_this_host(io.Schema, arguments))


def refusal(check: Callable[[], Any]) -> bool | str:
    """The answer of `validate_inputs`: True, or the message of what the check raised."""
    try:
        check()
    except AstraeaError as error:
        return str(error)
    return True
