"""A full step that later token steps continue from: every block runs as it is, and its residual is recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..blocks.interface import BlockCall
from ..state.cond_state import CondState, TokenState
from ..state.residual_store import ResidualStore, StoreSize
from .base import ModelCall
from .context import CallInfo, RunContext


class RecordingCall(ModelCall):
    """Computes everything and keeps each block's residual.

    Where no block could run for selected tokens, later token steps would compute everything, too: then nothing is kept.
    """

    runs_blocks = True

    def __init__(self, context: RunContext, info: CallInfo):
        super().__init__(context, info)
        self._unsupported, self._reason = 0, ""  # blocks that token steps would run in full, and why the last of them

    def begin(self, hidden: Tensor) -> None:
        for cond in self.info.conds:
            self._keep_tokens(cond.state, hidden[cond.rows])

    def _keep_tokens(self, state: CondState, hidden: Tensor) -> None:
        mode, before = self.context.mode, state.tokens
        size = StoreSize(self.info.blocks * mode.slots, *hidden.shape)
        store, reason = state.new_store(size, self.context.cache, hidden.dtype, hidden.device, self.context.agree)
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
        if reason := self.full_block_reason(call):
            self._unsupported, self._reason = self._unsupported + 1, reason
        result, before, after = self.run_for_all_tokens(call, hidden)
        for cond in self.info.conds:
            if cond.state.tokens is not None:
                self._record(cond.state.tokens.store, call.index, after[cond.rows], before[cond.rows])
        return result

    def end(self, prediction: Tensor) -> Tensor:
        if self._unsupported and self._unsupported == self.blocks_run:
            self.store_failure = f"every block has to run in full: {self._reason}"
        return super().end(prediction)

    def _record(self, store: ResidualStore, index: int, after: Tensor, before: Tensor) -> None:
        """Keep a block's residual in its first slot; older residuals move on by a slot, the oldest is dropped."""
        slots = self.context.mode.slots
        newest = index * slots
        for slot in range(newest + slots - 1, newest, -1):
            store.swap(slot, slot - 1)
        store.write_difference(newest, after, before)
