"""Mode `paper` (arXiv 2506.05096, §3): each block scores and selects its own tokens and keeps its output.

A token's score is LSE · Δ + 0.5 · eⁿ: log-sum-exp of its last query, change of its input since, steps since. Stale
tokens take the kept output. Where the paper is silent: Δ is the RMS over channels, the LSE the mean over heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..blocks.interface import BlockCall
from ..blocks.selection import Selection, paper_score, rms_change, select_tokens
from ..report import REUSE, TOKEN
from ..state.cond_state import BlockState
from ..state.residual_store import StoreSize
from .base import ModelCall
from .context import CallInfo, RunContext


def _output_slot(index: int) -> int:
    return 2 * index


def _input_slot(index: int) -> int:
    return 2 * index + 1


class PaperFullCall(ModelCall):
    """A full step that also keeps every block's output, input and log-sum-exp."""

    runs_blocks = True

    def begin(self, hidden: Tensor) -> None:
        rows, tokens, dim = hidden.shape
        every = torch.arange(tokens, device=hidden.device).expand(rows, -1)
        self._all_tokens = Selection(every, tokens, allocating=self.info.allocating)
        for cond in self.info.conds:
            size = StoreSize(2 * self.info.blocks, cond.group.count, tokens, dim)
            store, reason = cond.state.new_store(
                size, self.context.cache, hidden.dtype, hidden.device, self.context.agree
            )
            if store is None:
                self.store_failure = reason
                continue
            self.notes.append(reason)
            cond.state.keep(BlockState(store))

    def end_blocks(self) -> None:
        self._all_tokens.derived.clear()

    def forward(self, call: BlockCall, hidden: Tensor) -> Any:
        conds, index = self.info.conds, call.index
        kept = [(cond.rows, cond.state.blocks) for cond in conds if cond.state.blocks is not None]
        reason = self.full_block_reason(call)
        if reason or len(kept) < len(conds):
            if reason:
                self.notes.append(f"nothing can be kept of the blocks: {reason}")
            with self.info.allocating():
                for cond in conds:
                    cond.state.invalidate()
            return call.run()
        residual, lse = self.runner.forward_tokens(call, self._all_tokens, self.info.attend, need_lse=True)
        output = hidden + residual
        with self.info.allocating():
            for rows, blocks in kept:
                blocks.lse[index] = _required(lse)[rows].clone()
                _keep_all(blocks, index, hidden[rows], output[rows])
                _keep_other_streams(blocks, call, rows)
        return self.pack(call, hidden, output)


class PaperTokenCall(ModelCall):
    """A step at a budget between 0 and 1."""

    kind = TOKEN
    runs_blocks = True

    def __init__(self, context: RunContext, info: CallInfo, tokens: int):
        super().__init__(context, info, tokens)
        conds = info.conds
        self._kept = [(cond.rows, cond.state.blocks) for cond in conds if cond.state.blocks is not None]

    def forward(self, call: BlockCall, hidden: Tensor) -> Any:
        reason = self.full_block_reason(call)
        if not reason:
            return self.pack(call, hidden, self._outputs(call, hidden))
        result, before, after = self.run_for_all_tokens(call, hidden, reason)
        with self.info.allocating():
            for rows, blocks in self._kept:
                # The log-sum-exp is carried along: a block that runs as it is returns none.
                _keep_all(blocks, call.index, before[rows], after[rows])
            if any(blocks.other_streams.get(call.index) for _, blocks in self._kept):
                # The other streams of its result are not known, and those kept are older: the next call starts anew.
                for cond in self.info.conds:
                    cond.state.invalidate()
        return result

    def _outputs(self, call: BlockCall, hidden: Tensor) -> Tensor:
        """Return the outputs of all tokens `[B, N, dim]`."""
        selections = [self._select(blocks, call.index, hidden[rows]) for rows, blocks in self._kept]
        selection = Selection(torch.cat([each.indices for each in selections]), hidden.shape[1])
        residual, lse = self.runner.forward_tokens(call, selection, self.info.attend, need_lse=True)
        fresh = selection.gather(hidden).add_(residual)
        outputs = []
        for (rows, blocks), own in zip(self._kept, selections, strict=True):
            blocks.lse[call.index].scatter_(1, own.indices, _required(lse)[rows])
            outputs.append(_update(blocks, call.index, hidden[rows], fresh[rows], own))
            with self.info.allocating():
                _keep_other_streams(blocks, call, rows)
        return torch.cat(outputs)

    def _select(self, blocks: BlockState, index: int, hidden: Tensor) -> Selection:
        change = rms_change(hidden, blocks.store.read(_input_slot(index)))
        ages = blocks.ages[index]
        score = paper_score(change, blocks.lse[index], ages)
        selection = select_tokens(score, self.tokens, self.info.layout.video_slice)
        ages.add_(1.0).scatter_(1, selection.indices, 0.0)
        return selection


class PaperReuseCall(PaperTokenCall):
    """A step at budget 0: every block returns its kept output, of all streams."""

    kind = REUSE

    def __init__(self, context: RunContext, info: CallInfo):
        super().__init__(context, info, tokens=0)

    def _outputs(self, call: BlockCall, hidden: Tensor) -> Tensor:
        kept = [blocks.other_streams[call.index] for _, blocks in self._kept]
        call.other_streams.update({name: torch.cat([streams[name] for streams in kept]) for name in kept[0]})
        return torch.cat([blocks.store.read(_output_slot(call.index)) for _, blocks in self._kept])


def _keep_all(blocks: BlockState, index: int, hidden: Tensor, output: Tensor) -> None:
    """Keep the inputs and outputs of all tokens, `[rows, N, dim]`, as computed now."""
    blocks.store.write(_output_slot(index), output)
    blocks.store.write(_input_slot(index), hidden)
    blocks.ages[index] = torch.zeros_like(blocks.lse[index])


def _keep_other_streams(blocks: BlockState, call: BlockCall, rows: slice) -> None:
    """Keep what the block computed beside the hidden states for one conditioning's rows."""
    blocks.other_streams[call.index] = {name: each[rows].clone() for name, each in call.other_streams.items()}


def _update(blocks: BlockState, index: int, hidden: Tensor, fresh: Tensor, selection: Selection) -> Tensor:
    """Keep the selected tokens' inputs and outputs; returns the outputs of all tokens `[rows, N, dim]`."""
    store = blocks.store
    inputs, outputs = store.read(_input_slot(index)), store.read(_output_slot(index))
    store.write(_input_slot(index), selection.put(inputs, selection.gather(hidden)))
    selection.put(outputs, fresh)
    store.write(_output_slot(index), outputs)
    return outputs


def _required(lse: Tensor | None) -> Tensor:
    if lse is None:
        raise AssertionError("the block runner was asked for a log-sum-exp and gave none")
    return lse
