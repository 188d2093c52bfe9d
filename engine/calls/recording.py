"""A full step that later token steps continue from: every block runs as it is, and its residual is recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..blocks.interface import BlockCall
from ..state.cond_state import CondState, TokenState
from ..state.residual_store import ResidualStore, StoreSize
from .base import ModelCall


class RecordingCall(ModelCall):
    """Computes everything and keeps each block's residual."""

    runs_blocks = True

    def begin(self, hidden: Tensor) -> None:
        for cond in self.info.conds:
            self._keep_tokens(cond.state, hidden[cond.rows])

    def _keep_tokens(self, state: CondState, hidden: Tensor) -> None:
        mode, before = self.context.mode, state.tokens
        size = StoreSize(self.info.blocks * mode.slots, *hidden.shape)
        store, reason = state.new_store(size, self.context.cache, hidden.dtype, hidden.device)
        if store is None:
            self.store_failure = reason
            return
        self.notes.append(reason)
        # A new store holds no older residuals, and the estimator must know of none.
        previous = before.estimator_state if before is not None and store is before.store else None
        ages = torch.zeros(hidden.shape[:2], dtype=torch.float32, device=hidden.device)
        inputs = hidden.clone(memory_format=torch.contiguous_format)  # `hidden` is the model's, which may change it
        state.keep(TokenState(store, inputs, ages, mode.token_estimator.begin(self.info.sigma, ages, previous)))

    def forward(self, call: BlockCall, hidden: Tensor) -> Any:
        result, before, after = self.run_for_all_tokens(call, hidden)
        for cond in self.info.conds:
            if cond.state.tokens is not None:
                self._record(cond.state.tokens.store, call.index, after[cond.rows], before[cond.rows])
        return result

    def _record(self, store: ResidualStore, index: int, after: Tensor, before: Tensor) -> None:
        """Keep a block's residual in its first slot; older residuals move on by a slot, the oldest is dropped."""
        slots = self.context.mode.slots
        newest = index * slots
        for slot in range(newest + slots - 1, newest, -1):
            store.swap(slot, slot - 1)
        store.write_difference(newest, after, before)
