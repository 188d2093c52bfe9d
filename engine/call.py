"""One model call: what happens at each block. Built by a `Run`, dropped when the call ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .blocks import Attend, BlockRunner, RowGroup, TokenLayout
from .branch import Branch
from .estimators import (
    forecast_tokens,
    forecast_total,
    hold_tokens,
    hold_total,
    refit_tokens,
    scaled_refit_tokens,
)
from .estimators.forecast import token_reach
from .estimators.refit import change_weights
from .selection import Selection, change_score, rms_change, select
from .store import StoreSize

if TYPE_CHECKING:
    from .run import Run

Original = Callable[..., Tensor]


class Call:
    """Common ground of all kinds of call: rows, branches, the stack's total residual.

    blocks: number of transformer blocks; adds_between: whether the host or another pack changes the hidden state
    between blocks, so that the total must be summed from the blocks' own residuals.
    """

    kind = "full"

    def __init__(
        self,
        run: Run,
        sigma: float,
        groups: list[tuple[RowGroup, Branch]],
        layout: TokenLayout,
        runner: BlockRunner,
        attend: Attend,
        blocks: int,
        adds_between: bool,
    ):
        self.run, self.sigma, self.groups, self.layout = run, sigma, groups, layout
        self.runner, self.attend, self.blocks, self.adds_between = runner, attend, blocks, adds_between
        self.wants_total = False
        self.foreign_blocks: set[int] = set()  # blocks whose `forward` another pack has replaced
        self.computed = layout.video
        self._first_entry: Tensor | None = None
        self._last_output: Tensor | None = None
        self._sum: Tensor | None = None

    def run_block(self, index: int, block: nn.Module, original: Original, args: tuple, kwargs: dict) -> Tensor:
        """Stands in for block `index`: returns its output `[B, N, dim]`."""
        x = self.runner.entry(args, kwargs)
        if self._first_entry is None:
            self._first_entry = x
            self.begin(x)
        output = self.forward(index, block, original, x, args, kwargs)
        self._last_output = output
        return output

    def begin(self, x: Tensor) -> None:
        """Called once with the first block's input."""

    def forward(
        self, index: int, block: nn.Module, original: Original, x: Tensor, args: tuple, kwargs: dict
    ) -> Tensor:
        return original(*args, **kwargs)

    def why_whole(self, index: int, block: nn.Module, args: tuple, kwargs: dict) -> str:
        """Why block `index` must run as it is, for all tokens; "" if it need not."""
        if index in self.foreign_blocks:
            return "another node has replaced its forward"
        return self.runner.why_not(block, args, kwargs)

    def add_to_total(self, residual: Tensor) -> None:
        """Sum block residuals (fp32), where the total is not simply last output minus first input."""
        if self.wants_total and self.adds_between:
            self._sum = residual.float().clone() if self._sum is None else self._sum.add_(residual)

    def close(self) -> None:
        """Called after the model has returned: keeps the stack's total residual for later reuse steps."""
        if self.wants_total and self._first_entry is not None:
            total = self._sum
            if total is None:
                total = self._last_output - self._first_entry
            for group, branch in self.groups:
                branch.keep_total(self.sigma, total[group.rows].to(self._first_entry.dtype))
        self._first_entry = self._last_output = self._sum = None


class FullCall(Call):
    """Every block runs as the host wrote it; what later steps need is recorded on the way."""

    records = False

    def begin(self, x: Tensor) -> None:
        for group, branch in self.groups:
            branch.store_valid = False
            if self.records and self._prepare(branch, x[group.rows]):
                branch.store_valid = True

    def _prepare(self, branch: Branch, x: Tensor) -> bool:
        mode = self.run.plan.mode
        size = StoreSize(self.blocks * mode.stores_per_block, x.shape[0], x.shape[1], x.shape[2])
        reason = branch.prepare_store(size, self.run.plan.cache.ladder(), x.dtype, x.device)
        self.run.report.note(reason)
        if branch.store is None:
            self.run.give_up_store(reason)
            return False
        branch.reference = x.contiguous()
        branch.ages = torch.zeros(x.shape[:2], dtype=torch.float32, device=x.device)
        now = torch.full(x.shape[:2], self.sigma, dtype=torch.float32, device=x.device)
        before = branch.computed_at[0] if branch.computed_at is not None else now
        branch.computed_at = torch.stack([now, before]) if mode.token_estimator == "forecast" else None
        return True

    def forward(self, index, block, original, x, args, kwargs):
        output = original(*args, **kwargs)
        for group, branch in self.groups:
            if branch.store_valid:
                self._record(branch, index, output[group.rows], x[group.rows])
        if self.wants_total and self.adds_between:
            self.add_to_total(output - x)
        return output

    def _record(self, branch: Branch, index: int, output: Tensor, entry: Tensor) -> None:
        if self.run.plan.mode.stores_per_block == 2:
            branch.store.swap(2 * index, 2 * index + 1)
            index = 2 * index
        branch.store.write_difference(index, output, entry)


class ReuseCall(Call):
    """No block runs: the first adds the estimate of the stack's total residual, the others do nothing."""

    kind = "reuse"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.computed = 0
        self._added = False

    def forward(self, index, block, original, x, args, kwargs):
        if self._added:
            return x
        self._added = True
        estimate = forecast_total if self.run.plan.mode.reuse_estimator == "forecast" else hold_total
        totals = [estimate(branch.totals, self.sigma) for _, branch in self.groups]
        return x + (totals[0] if len(totals) == 1 else torch.cat(totals))


class TokenCall(Call):
    """The selected tokens run through every block; all others follow an estimate of their residuals."""

    kind = "token"

    def __init__(self, *args, count: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.computed = count
        self.selection: Selection | None = None
        self._group_selections: list[Selection] = []
        self._weights: list[Tensor | None] = []

    def begin(self, x: Tensor) -> None:
        for group, branch in self.groups:
            rows = x[group.rows]
            change = rms_change(rows, branch.reference)
            selection = Selection(self._choose(change, branch), x.shape[1])
            self._weights.append(self._estimator_weights(change, selection, branch))
            self._remember(branch, rows, selection)
            self._group_selections.append(selection)
        parts = self._group_selections
        self.selection = parts[0] if len(parts) == 1 else Selection(torch.cat([p.indices for p in parts]), x.shape[1])

    def _choose(self, change: Tensor, branch: Branch) -> Tensor:
        if self.run.plan.mode.score == "random":
            score = torch.rand(change.shape, generator=self.run.random, device="cpu").to(change.device)
        else:
            score = change_score(change, branch.ages)
        return select(score, self.computed, self.layout.video_slice)

    def _estimator_weights(self, change: Tensor, selection: Selection, branch: Branch) -> Tensor | None:
        estimator = self.run.plan.mode.token_estimator
        if estimator == "scaled_refit":
            return change_weights(change, selection.indices)
        if estimator == "forecast":
            return token_reach(self.sigma, branch.computed_at[0], branch.computed_at[1])
        return None

    def _remember(self, branch: Branch, rows: Tensor, selection: Selection) -> None:
        selection.put(branch.reference, selection.gather(rows))
        branch.ages.add_(1.0).scatter_(1, selection.indices, 0.0)
        if branch.computed_at is not None:
            newest, older = branch.computed_at
            older.scatter_(1, selection.indices, newest.gather(1, selection.indices))
            newest.scatter_(1, selection.indices, self.sigma)

    def forward(self, index, block, original, x, args, kwargs):
        reason = self.why_whole(index, block, args, kwargs)
        if reason:
            return self._whole_block(index, original, x, args, kwargs, reason)
        fresh, _ = self.runner.run_rows(block, args, kwargs, self.selection, self.attend)
        output = torch.empty_like(x, memory_format=torch.contiguous_format)
        for (group, branch), selection, weights in zip(
            self.groups, self._group_selections, self._weights, strict=True
        ):
            residual = self._update(branch, index, fresh[group.rows], selection, weights)
            torch.add(x[group.rows], residual, out=output[group.rows])
        if self.wants_total and self.adds_between:
            self.add_to_total(output - x)
        return output

    def _whole_block(self, index, original, x, args, kwargs, reason: str) -> Tensor:
        self.run.report.note(f"a block ran in full: {reason}")
        output = original(*args, **kwargs)
        slot = index * self.run.plan.mode.stores_per_block
        for group, branch in self.groups:
            branch.store.write_difference(slot, output[group.rows], x[group.rows])
        if self.wants_total and self.adds_between:
            self.add_to_total(output - x)
        return output

    def _update(
        self, branch: Branch, index: int, fresh: Tensor, selection: Selection, weights: Tensor | None
    ) -> Tensor:
        """The block's residual for all tokens `[rows, N, dim]`; the store then holds it, too."""
        store, estimator = branch.store, self.run.plan.mode.token_estimator
        if estimator == "forecast":
            return self._update_forecast(branch, index, fresh, selection, weights)
        kept = store.read(index)
        if estimator == "hold":
            residual = hold_tokens(kept)
        elif estimator == "refit":
            residual = refit_tokens(kept, selection.gather(kept), fresh)
        else:
            residual = scaled_refit_tokens(kept, selection.gather(kept), fresh, weights)
        selection.put(residual, fresh)
        store.write(index, residual)
        return residual

    def _update_forecast(
        self, branch: Branch, index: int, fresh: Tensor, selection: Selection, weights: Tensor
    ) -> Tensor:
        """Keeps only computed values, two per token, and forecasts from them."""
        store = branch.store
        kept, older = store.read(2 * index), store.read(2 * index + 1)
        residual = selection.put(forecast_tokens(kept, older, weights), fresh)
        store.write(2 * index + 1, selection.put(older, selection.gather(kept)))
        store.write(2 * index, selection.put(kept, fresh))
        return residual
