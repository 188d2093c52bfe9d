"""Parts of all node definitions: the category, the pack's own types, and schema arguments.

The oldest supported ComfyUI does not know all schema arguments; unknown arguments are left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any

from comfy_api.latest import io

from ..errors import AstraeaError

CATEGORY = "Astraea"
ScheduleType = io.Custom("ASTRAEA_SCHEDULE")
ReportType = io.Custom("ASTRAEA_REPORT")
RayActorsType = io.Custom("RAY_ACTORS")  # raylight's
LATER_ARGUMENTS = {"advanced", "search_aliases"}
# Default of an input in `validate_inputs`: for a linked input the host passes None, for an absent input nothing.
NOT_LINKED = object()


class Choices(list[str]):
    """Choices of a list input, which also lets those of former versions pass: saved workflows hold them.

    The host asks this list whether a value is in it, and shows its entries alone.
    """

    def __init__(self, choices: Iterable[str], former: Collection[str] = ()):
        super().__init__(choices)
        self._former = frozenset(former)

    def __contains__(self, value: object) -> bool:
        return super().__contains__(value) or value in self._former


def _known_arguments(target: Callable, arguments: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(target).parameters
    return {name: value for name, value in arguments.items() if name in known or name not in LATER_ARGUMENTS}


def field(kind: Any, name: str, **arguments: Any) -> Any:
    """Return an input of a type, for example `io.Float`."""
    return kind.Input(name, **_known_arguments(kind.Input, arguments))


def node_schema(**arguments: Any) -> io.Schema:
    """Return the schema of a node of the pack."""
    return io.Schema(category=CATEGORY, **_known_arguments(io.Schema, arguments))


def refusal(check: Callable[[], Any]) -> bool | str:
    """Return the answer of `validate_inputs`: True, or the message of the error that the check raises."""
    try:
        check()
    except AstraeaError as error:
        return str(error)
    return True
