"""Hooks on the blocks' `forward` for the length of one model call, taken off whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..blocks.compilation import no_compile
from ..blocks.interface import BlockCall, unwrap
from . import ModelCall

_ABSENT = object()


@contextmanager
def patched_forwards(blocks: Sequence[nn.Module] | nn.ModuleList, call: ModelCall) -> Iterator[None]:
    """Within the context every block's `forward` goes through the call; what stood there before is restored.

    A call that has nothing to do at the blocks leaves them as they are.
    """
    if not call.runs_blocks:
        yield
        return
    saved: list[tuple[nn.Module, Any]] = []
    try:
        for index, block in enumerate(blocks):
            own = vars(block).get("forward", _ABSENT)
            inner = unwrap(block)
            externally_patched = own is not _ABSENT and inner is block
            saved.append((block, own))
            # Through the instance dictionary: a compiled wrapper would pass an attribute on to the inner module.
            vars(block)["forward"] = _hook(call, index, inner, block.forward, externally_patched)
        yield
    finally:
        for block, own in saved:
            if own is _ABSENT:
                vars(block).pop("forward", None)
            else:
                vars(block)["forward"] = own


def is_capturing() -> bool:
    """Tell whether the device's work is being recorded as a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _hook(
    call: ModelCall, index: int, block: nn.Module, original: Callable[..., Any], externally_patched: bool
) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        run = call.run_captured if is_capturing() else call.run_block
        return run(BlockCall(index, block, original, args, kwargs, externally_patched))

    # The bookkeeping changes from call to call and would recompile each time; what it calls may still be compiled.
    return no_compile(forward, recursive=False)
