"""Puts stand-ins on the blocks' `forward` for the length of one model call, and takes them off whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .calls.base import Call
from .compilation import untraced
from .interface import unwrap

_ABSENT = object()


@contextmanager
def swapped_forwards(blocks: Sequence[nn.Module] | nn.ModuleList, call: Call) -> Iterator[None]:
    """Within the context every block's `forward` goes through the call; what stood there before is restored.

    A call that has nothing to do at the blocks leaves them as they are.
    """
    if not call.in_blocks:
        yield
        return
    saved: list[tuple[nn.Module, Any]] = []
    try:
        for index, block in enumerate(blocks):
            own = vars(block).get("forward", _ABSENT)
            inner = unwrap(block)
            if own is not _ABSENT and inner is block:
                call.foreign_blocks.add(index)
            saved.append((block, own))
            # Through the instance dictionary: a compiled wrapper would pass an attribute on to the inner module.
            vars(block)["forward"] = _stand_in(call, index, inner, block.forward)
        yield
    finally:
        for block, own in saved:
            if own is _ABSENT:
                vars(block).pop("forward", None)
            else:
                vars(block)["forward"] = own


def _stand_in(call: Call, index: int, block: nn.Module, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return call.run_block(index, block, original, args, kwargs)

    # The bookkeeping changes from call to call and would recompile each time; what it calls may still be compiled.
    return untraced(forward, recursive=False)
