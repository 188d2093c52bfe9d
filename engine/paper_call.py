"""Mode `paper` (§3 of the paper): each block scores and selects its own tokens and keeps its output.

Score LSE(t−1) · Δ + 0.5 · eⁿ, stale tokens take the kept output. Where the paper is silent: Δ is the RMS over channels,
the log-sum-exp is averaged over heads, and both it and the age of a skipped token are carried along.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .branch import Branch
from .call import Call
from .selection import Selection, paper_score, rms_change, select
from .store import StoreSize


class PaperFullCall(Call):
    """A full step that also keeps every block's output, input and log-sum-exp."""

    def begin(self, x: Tensor) -> None:
        every = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
        self._everything = Selection(every, x.shape[1])
        for group, branch in self.groups:
            rows = x[group.rows]
            size = StoreSize(2 * self.blocks, *rows.shape)
            self.run.report.note(branch.prepare_store(size, self.run.plan.cache.ladder(), x.dtype, x.device))
            branch.store_valid = branch.store is not None
            if branch.store is None:
                self.run.give_up_store(branch.no_store)

    def forward(self, index, block, original, x, args, kwargs):
        if self.why_whole(index, block, args, kwargs) or not all(branch.store_valid for _, branch in self.groups):
            for _, branch in self.groups:
                branch.store_valid = False
            return original(*args, **kwargs)
        residual, lse = self.runner.run_rows(block, args, kwargs, self._everything, self.attend, need_lse=True)
        output = x + residual
        for group, branch in self.groups:
            branch.store.write(2 * index, output[group.rows])
            branch.store.write(2 * index + 1, x[group.rows])
            branch.block_lse[index] = lse[group.rows].clone()
            branch.block_ages[index] = torch.zeros_like(branch.block_lse[index])
        return output


class PaperTokenCall(Call):
    """A step at a budget below 1; at 0 every block returns what it kept."""

    kind = "token"

    def __init__(self, *args, count: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.computed = count
        if count == 0:
            self.kind = "reuse"

    def forward(self, index, block, original, x, args, kwargs):
        reason = self.why_whole(index, block, args, kwargs)
        if reason:
            self.run.report.note(f"a block ran in full: {reason}")
            return original(*args, **kwargs)
        if self.computed == 0:
            return torch.cat([branch.store.read(2 * index) for _, branch in self.groups])
        selections = [self._choose(branch, index, x[group.rows]) for group, branch in self.groups]
        everything = Selection(torch.cat([s.indices for s in selections]), x.shape[1])
        residual, lse = self.runner.run_rows(block, args, kwargs, everything, self.attend, need_lse=True)
        fresh = everything.gather(x).add_(residual)
        outputs = []
        for (group, branch), selection in zip(self.groups, selections, strict=True):
            branch.block_lse[index].scatter_(1, selection.indices, lse[group.rows])
            outputs.append(self._keep(branch, index, x[group.rows], fresh[group.rows], selection))
        return torch.cat(outputs)

    def _choose(self, branch: Branch, index: int, x: Tensor) -> Selection:
        change = rms_change(x, branch.store.read(2 * index + 1))
        ages = branch.block_ages[index]
        score = paper_score(change, branch.block_lse[index], ages)
        selection = Selection(select(score, self.computed, self.layout.video_slice), x.shape[1])
        ages.add_(1.0).scatter_(1, selection.indices, 0.0)
        return selection

    def _keep(self, branch: Branch, index: int, x: Tensor, fresh: Tensor, selection: Selection) -> Tensor:
        entry, output = branch.store.read(2 * index + 1), branch.store.read(2 * index)
        branch.store.write(2 * index + 1, selection.put(entry, selection.gather(x)))
        selection.put(output, fresh)
        branch.store.write(2 * index, output)
        return output
