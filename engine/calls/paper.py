"""Mode `paper` (§3 of the paper): each block scores and selects its own tokens and keeps its output.

Score LSE(t−1) · Δ + 0.5 · eⁿ, stale tokens take the kept output. Where the paper is silent: Δ is the RMS over channels,
the log-sum-exp is averaged over heads, and both it and the age of a skipped token are carried along.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..cond_state import KeptBlocks
from ..residual_store import ResidualStore, StoreSize
from ..selection import Selection, paper_score, rms_change, select
from .base import Call, Original


class PaperFullCall(Call):
    """A full step that also keeps every block's output, input and log-sum-exp."""

    in_blocks = True

    def begin(self, x: Tensor) -> None:
        every = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
        self._everything = Selection(every, x.shape[1])
        for group, branch in self.groups:
            rows = x[group.rows]
            size = StoreSize(2 * self.blocks, rows.shape[0], rows.shape[1], rows.shape[2])
            store, reason = branch.new_store(size, self.run.plan.cache.ladder(), x.dtype, x.device)
            if store is None:
                self.run.give_up_store(reason)
                continue
            self.run.report.note(reason)
            branch.blocks = KeptBlocks(store)

    def forward(self, index: int, block: nn.Module, original: Original, x: Tensor, args: tuple, kwargs: dict) -> Tensor:
        kept = [(group, branch.blocks) for group, branch in self.groups if branch.blocks is not None]
        reason = self.why_whole(index, block, args, kwargs)
        if reason or len(kept) < len(self.groups):
            if reason:
                self.run.report.note(f"nothing can be kept of the blocks: {reason}")
            for _, branch in self.groups:
                branch.outdate()
            return original(*args, **kwargs)
        residual, lse = self.runner.run_rows(block, args, kwargs, self._everything, self.attend, need_lse=True)
        output = x + residual
        for group, blocks in kept:
            blocks.store.write(2 * index, output[group.rows])
            blocks.store.write(2 * index + 1, x[group.rows])
            blocks.lse[index] = _known(lse)[group.rows].clone()
            blocks.ages[index] = torch.zeros_like(blocks.lse[index])
        return output


class PaperTokenCall(Call):
    """A step at a budget below 1; at 0 every block returns what it kept."""

    kind = "token"
    in_blocks = True

    def __init__(self, *common: Any, count: int):
        super().__init__(*common)
        self.computed = count
        if count == 0:
            self.kind = "reuse"
        self._kept = [(group, branch.blocks) for group, branch in self.groups if branch.blocks is not None]

    def forward(self, index: int, block: nn.Module, original: Original, x: Tensor, args: tuple, kwargs: dict) -> Tensor:
        reason = self.why_whole(index, block, args, kwargs)
        if reason:
            self.blocks_whole += 1
            self.whole_reason = reason
            return original(*args, **kwargs)
        if self.computed == 0:
            return torch.cat([blocks.store.read(2 * index) for _, blocks in self._kept])
        selections = [self._choose(blocks, index, x[group.rows]) for group, blocks in self._kept]
        everything = Selection(torch.cat([s.indices for s in selections]), x.shape[1])
        residual, lse = self.runner.run_rows(block, args, kwargs, everything, self.attend, need_lse=True)
        fresh = everything.gather(x).add_(residual)
        outputs = []
        for (group, blocks), selection in zip(self._kept, selections, strict=True):
            blocks.lse[index].scatter_(1, selection.indices, _known(lse)[group.rows])
            outputs.append(self._keep(blocks.store, index, x[group.rows], fresh[group.rows], selection))
        return torch.cat(outputs)

    def _choose(self, blocks: KeptBlocks, index: int, x: Tensor) -> Selection:
        change = rms_change(x, blocks.store.read(2 * index + 1))
        ages = blocks.ages[index]
        score = paper_score(change, blocks.lse[index], ages)
        selection = Selection(select(score, self.computed, self.layout.video_slice), x.shape[1])
        ages.add_(1.0).scatter_(1, selection.indices, 0.0)
        return selection

    def _keep(self, store: ResidualStore, index: int, x: Tensor, fresh: Tensor, selection: Selection) -> Tensor:
        entry, output = store.read(2 * index + 1), store.read(2 * index)
        store.write(2 * index + 1, selection.put(entry, selection.gather(x)))
        selection.put(output, fresh)
        store.write(2 * index, output)
        return output


def _known(lse: Tensor | None) -> Tensor:
    if lse is None:
        raise AssertionError("the block runner was asked for a log-sum-exp and gave none")
    return lse
