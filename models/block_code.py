"""The code of a block as a family's file knows it: blocks that differ are refused, calls that differ run in full."""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from torch import Tensor

from ..engine.blocks.interface import BlockCall, class_name, unwrap
from ..errors import UnsupportedBlocks


def require_attributes(model: Any, *names: str) -> None:
    """Raise UnsupportedBlocks unless a model has attributes of these names."""
    for name in names:
        if not hasattr(model, name):
            raise UnsupportedBlocks(f"this {class_name(model)} has no {name}: its code has changed")


@dataclass(frozen=True)
class BlockCode:
    """One block class of the host.

    class_name: name of the class; parts: attributes that the runner uses, dotted; arguments: those of `forward` that
    the runner understands, in order; leading: number of arguments, from the first, that `forward` must begin with.
    """

    class_name: str
    parts: tuple[str, ...]
    arguments: tuple[str, ...]
    leading: int

    def check(self, block: Any) -> None:
        """Raise UnsupportedBlocks, with what differs, unless a block is of this code."""
        block = unwrap(block)
        name = class_name(block)
        if name != self.class_name:
            raise UnsupportedBlocks(f"blocks of class {name} are not known")
        missing = [part for part in self.parts if not _has(block, part)]
        if missing:
            raise UnsupportedBlocks(f"{name} has changed: no {', '.join(missing)}")
        found = _arguments(block.__class__)
        if found[: self.leading] != self.arguments[: self.leading]:
            raise UnsupportedBlocks(f"{name}.forward has changed: it takes {', '.join(found)}")

    def named_arguments(self, call: BlockCall) -> dict[str, Any]:
        """Return a call's arguments by name; ones that are not known keep their keyword."""
        return dict(zip(self.arguments, call.args, strict=False)) | call.kwargs

    def foreign_arguments(self, call: BlockCall) -> str:
        """Return the reason why a call's arguments are not understood, or ""."""
        named = self.named_arguments(call)
        foreign = [name for name, value in named.items() if name not in self.arguments and value is not None]
        if foreign or len(call.args) > len(self.arguments):
            return f"it was called with {', '.join(foreign) or 'more arguments than known'}"
        return ""


class OneTensorBlocks:
    """The part of a `BlockRunner` for blocks that take one tensor `[B, N, dim]`, first, and return one.

    first_argument: its name.
    """

    first_argument = "x"

    def entry(self, call: BlockCall) -> Tensor:
        return call.args[0] if call.args else call.kwargs[self.first_argument]

    def exit(self, result: Any) -> Tensor:
        return result

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        return hidden


def _has(block: Any, part: str) -> bool:
    try:
        attrgetter(part)(block)
    except AttributeError:
        return False
    return True


@cache
def _arguments(block_class: Hashable) -> tuple[str, ...]:
    return tuple(inspect.signature(getattr(block_class, "forward")).parameters)[1:]  # noqa: B009 a class of the host
