"""Stands for the newest ComfyUIs where they record what a model allocates in a call, to replay it in later ones.

Written from how they behave: what is allocated in a recorded section must be given back in it, and likewise within each
block; memory that lasts is allocated and freed while the recorder pauses, and pauses do not nest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocationRecorder(TorchDispatchMode):
    """Follows the memory of tensors that operators make; fails where it outlives its scope, or lasting memory ends."""

    def __init__(self) -> None:
        super().__init__()
        self._scopes: list[list[StorageWeakRef]] = []
        self._lasting: list[StorageWeakRef] = []
        self._paused = False

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {StorageWeakRef(t.untyped_storage()).cdata for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        made = (StorageWeakRef(t.untyped_storage()) for t in tree_leaves(result) if torch.is_tensor(t))
        (self._lasting if self._paused else self._scopes[-1]).extend(ref for ref in made if ref.cdata not in given)
        return result

    @contextmanager
    def section(self) -> Iterator[None]:
        """The recorded part of one model call."""
        self._scopes.append([])
        self._lasting = [ref for ref in self._lasting if not ref.expired()]
        with self:
            yield
            self._end_scope("the model's call")

    def next_block(self, *, last: bool = False) -> None:
        """End the scope of the block before, and begin one unless it was the last."""
        if len(self._scopes) > 1:
            self._end_scope("its block")
        if not last:
            self._scopes.append([])

    @contextmanager
    def pause(self) -> Iterator[None]:
        assert not self._paused, "the inner pause would end the outer one"
        self._check_lasting()
        self._paused = bool(self._scopes)
        yield
        self._paused = False
        self._lasting = [ref for ref in self._lasting if not ref.expired()]  # freed while paused

    def _end_scope(self, what: str) -> None:
        self._check_lasting()
        alive = [ref for ref in self._scopes.pop() if not ref.expired()]
        assert not alive, f"memory of {len(alive)} tensors outlives {what}"

    def _check_lasting(self) -> None:
        freed = [ref for ref in self._lasting if ref.expired()]
        assert not freed, f"memory of {len(freed)} tensors from outside was freed in the recorded section"
