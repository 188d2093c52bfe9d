"""One model call: what happens at each block. Built by a `Run`, dropped when the call ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..call_tracker import Place
from ..cond_state import Branch, KeptTokens
from ..correction import correct
from ..estimators import (
    Estimated,
    forecast_denoised,
    forecast_tokens,
    hold_denoised,
    hold_tokens,
    missed,
    refit_tokens,
    scaled_refit_tokens,
)
from ..estimators.forecast import reach_from, token_reach
from ..estimators.refit import change_weights
from ..interface import Attend, BlockRunner, RowGroup, TokenLayout
from ..residual_store import ResidualStore, StoreSize
from ..selection import Selection, change_score, rms_change, select

if TYPE_CHECKING:
    from ..run import Run

Original = Callable[..., Tensor]


class Call:
    """Common ground of all kinds of call: rows, branches, what later reuse steps need.

    blocks: number of transformer blocks.
    """

    kind = "full"
    in_blocks = False  # whether it has anything to do at the blocks; if not, they are left alone

    def __init__(
        self,
        run: Run,
        sigma: float,
        places: list[Place],
        groups: list[tuple[RowGroup, Branch]],
        layout: TokenLayout,
        runner: BlockRunner,
        attend: Attend,
        blocks: int,
    ):
        self.run, self.sigma, self.places, self.groups, self.layout = run, sigma, places, groups, layout
        self.runner, self.attend, self.blocks = runner, attend, blocks
        self.step = places[0].step if places else 0
        self.keeps_denoised = False
        self.foreign_blocks: set[int] = set()  # blocks whose `forward` another pack has replaced
        self.computed = layout.video
        self.blocks_run = self.blocks_whole = 0  # blocks that ran, and those that had to run for all tokens
        self.reason = self.whole_reason = ""  # why it runs in full unasked, and why blocks of it did
        self.skipped = False  # another pack has answered in the model's place
        self.start: Any = None  # when it began, by the run's clock
        self._begun = False

    def run_block(self, index: int, block: nn.Module, original: Original, args: tuple, kwargs: dict) -> Tensor:
        """Stands in for block `index`: returns its output `[B, N, dim]`."""
        self.blocks_run += 1
        x = self.runner.entry(args, kwargs)
        if not self._begun:
            self._begun = True
            self.begin(x)
        return self.forward(index, block, original, x, args, kwargs)

    def begin(self, x: Tensor) -> None:
        """Called once with the first block's input."""

    def forward(self, index: int, block: nn.Module, original: Original, x: Tensor, args: tuple, kwargs: dict) -> Tensor:
        return original(*args, **kwargs)

    def why_whole(self, index: int, block: nn.Module, args: tuple, kwargs: dict) -> str:
        """Why block `index` must run as it is, for all tokens; "" if it need not."""
        if index in self.foreign_blocks:
            return "another node has replaced its forward"
        return self.runner.why_not(block, args, kwargs)

    @property
    def was_skipped(self) -> bool:
        """Whether the model, or every block of it, has been left out by another pack."""
        return self.skipped or (self.in_blocks and not self.blocks_run)

    @property
    def computed_tokens(self) -> int:
        """Video tokens per row that were really computed, the mean over blocks."""
        if self.was_skipped:
            return 0
        if not self.blocks_whole:
            return self.computed
        in_part = (self.blocks_run - self.blocks_whole) * self.computed
        return round((in_part + self.blocks_whole * self.layout.video) / self.blocks_run)

    def close(self, denoised: Tensor) -> Tensor:
        """Called with the model's prediction, the denoised latents `[B, …]`; returns what the sampler is to get."""
        parts = [denoised[group.rows] for group, _ in self.groups]
        if self.keeps_denoised:
            parts = [part.clone() for part in parts]  # what was returned is the host's to change
        corrections = [self._correct(number, part) for number, part in enumerate(parts)]
        if self.keeps_denoised:
            forecasts = self.run.plan.mode.reuse_estimator == "forecast"
            for (_, branch), part in zip(self.groups, parts, strict=True):
                if forecasts:
                    self.run.trial.add(branch.denoised, self.sigma, part)
                branch.keep_denoised(self.sigma, part, self.step)
        if all(entry is None for entry in corrections):
            return denoised
        pairs = zip(parts, corrections, strict=True)
        whole = [part if entry is None else part + entry.to(part.dtype) for part, entry in pairs]
        return whole[0] if len(whole) == 1 else torch.cat(whole)

    def _correct(self, number: int, denoised: Tensor | None = None) -> Tensor | None:
        """What to add to the prediction for conditioning `number`; denoised: what was computed, None where nothing was.

        Only with weights that were read off the sampler, and for one of its calls that is known.
        """
        branch, call, run = self.groups[number][1], self.places[number].call, self.run
        solver = run.profile.solver
        if call is None or solver is None or call >= solver.calls or not run.plan.mode.corrects:
            branch.forget_corrections()
            return None
        if denoised is None:
            return correct(branch, solver, call, None, 0.0)
        computed = denoised

        def missing(gap: Sequence[Estimated], weights: Sequence[float]) -> Tensor | None:
            return missed(gap, weights, branch.denoised, self.sigma, computed, run.curves)

        is_last = call == solver.calls - 1 and run.ends_at(self.step)
        return correct(branch, solver, call, missing, run.forecast.last_response if is_last else 0.0)


class FullCall(Call):
    """Every block runs as the host wrote it; what token steps after it need is recorded on the way."""

    in_blocks = True

    def begin(self, x: Tensor) -> None:
        for group, branch in self.groups:
            before = branch.tokens.computed_at if branch.tokens is not None else None
            branch.outdate()
            branch.tokens = self._keep(branch, x[group.rows], before)

    def _keep(self, branch: Branch, x: Tensor, before: Tensor | None) -> KeptTokens | None:
        mode, cache = self.run.plan.mode, self.run.plan.cache
        size = StoreSize(self.blocks * mode.stores_per_block, x.shape[0], x.shape[1], x.shape[2])
        store, reason = branch.new_store(size, cache.ladder(), x.dtype, x.device)
        if store is None:
            self.run.give_up_store(reason)
            return None
        self.run.report.note(reason)
        ages = torch.zeros(x.shape[:2], dtype=torch.float32, device=x.device)
        kept = KeptTokens(store, x.contiguous(), ages)
        if mode.token_estimator == "forecast":
            now = torch.full_like(ages, self.sigma)
            kept.computed_at = torch.stack([now, now if before is None else before[0]])
        return kept

    def forward(self, index: int, block: nn.Module, original: Original, x: Tensor, args: tuple, kwargs: dict) -> Tensor:
        output = original(*args, **kwargs)
        for group, branch in self.groups:
            if branch.tokens is not None:
                self._record(branch.tokens.store, index, output[group.rows], x[group.rows])
        return output

    def _record(self, store: ResidualStore, index: int, output: Tensor, entry: Tensor) -> None:
        if self.run.plan.mode.stores_per_block == 2:
            store.swap(2 * index, 2 * index + 1)
            index = 2 * index
        store.write_difference(index, output, entry)


class ReuseCall(Call):
    """The model does not run: its prediction is estimated from those of earlier steps."""

    kind = "reuse"

    def __init__(self, *common: Any):
        super().__init__(*common)
        self.computed = 0

    def estimate(self) -> Tensor:
        """The denoised latents `[B, …]`, a new tensor."""
        parts = [self._estimate(number) for number in range(len(self.groups))]
        return torch.cat(parts)  # a copy, whatever they are

    def _estimate(self, number: int) -> Tensor:
        mode, branch, call = self.run.plan.mode, self.groups[number][1], self.places[number].call
        history, along = branch.denoised, self.run.curves.along
        if mode.reuse_estimator == "hold" or (mode.corrects and self.run.profile.solver is None):
            return hold_denoised(history, self.sigma)
        damping = self.run.trial.damping(history[0][1], reach_from(history, self.sigma, along), self.sigma)
        estimate = forecast_denoised(history, self.sigma, damping, along)
        if not mode.corrects:
            return estimate
        if call is not None:
            branch.gap.append(Estimated(call, self.sigma, damping))
        correction = self._correct(number)
        return estimate if correction is None else estimate + correction.to(estimate.dtype)

    def close(self, denoised: Tensor) -> Tensor:
        return denoised


@dataclass
class _Part:
    """One conditioning within a token step; weights `[rows, N, 1]` are the estimator's, None where it has none."""

    group: RowGroup
    kept: KeptTokens
    selection: Selection
    weights: Tensor | None


class TokenCall(Call):
    """The selected tokens run through every block; all others follow an estimate of their residuals."""

    kind = "token"
    in_blocks = True

    def __init__(self, *common: Any, count: int):
        super().__init__(*common)
        self.computed = count
        self._parts: list[_Part] = []
        self._selection: Selection | None = None

    def begin(self, x: Tensor) -> None:
        for group, branch in self.groups:
            if branch.tokens is None:
                raise AssertionError("a token step was planned for a conditioning without anything kept")
            rows, kept = x[group.rows], branch.tokens
            change = rms_change(rows, kept.reference)
            selection = Selection(self._choose(change, kept), x.shape[1])
            self._parts.append(_Part(group, kept, selection, self._estimator_weights(change, selection, kept)))
            self._remember(kept, rows, selection)
        chosen = [part.selection.indices for part in self._parts]
        self._selection = self._parts[0].selection if len(chosen) == 1 else Selection(torch.cat(chosen), x.shape[1])

    def _choose(self, change: Tensor, kept: KeptTokens) -> Tensor:
        if self.run.plan.mode.score == "random":
            # The same tokens for every conditioning, in whatever order calls come: guidance blows up differences.
            generator = torch.Generator().manual_seed(self.run.seed_of(self.step))
            score = torch.rand((1, change.shape[1]), generator=generator).expand_as(change).to(change.device)
        else:
            score = change_score(change, kept.ages)
        return select(score, self.computed, self.layout.video_slice)

    def _estimator_weights(self, change: Tensor, selection: Selection, kept: KeptTokens) -> Tensor | None:
        estimator = self.run.plan.mode.token_estimator
        if estimator == "scaled_refit":
            return change_weights(change, selection.indices)
        if estimator == "forecast" and kept.computed_at is not None:
            return token_reach(self.sigma, kept.computed_at[0], kept.computed_at[1])
        return None

    def _remember(self, kept: KeptTokens, rows: Tensor, selection: Selection) -> None:
        selection.put(kept.reference, selection.gather(rows))
        kept.ages.add_(1.0).scatter_(1, selection.indices, 0.0)
        if kept.computed_at is not None:
            newest, older = kept.computed_at
            older.scatter_(1, selection.indices, newest.gather(1, selection.indices))
            newest.scatter_(1, selection.indices, self.sigma)

    def forward(self, index: int, block: nn.Module, original: Original, x: Tensor, args: tuple, kwargs: dict) -> Tensor:
        reason = self.why_whole(index, block, args, kwargs)
        if reason or self._selection is None:
            return self._whole_block(index, original, x, args, kwargs, reason)
        fresh, _ = self.runner.run_rows(block, args, kwargs, self._selection, self.attend)
        output = torch.empty_like(x, memory_format=torch.contiguous_format)
        for part in self._parts:
            rows = part.group.rows
            torch.add(x[rows], self._update(part, index, fresh[rows]), out=output[rows])
        return output

    def _whole_block(self, index: int, original: Original, x: Tensor, args: tuple, kwargs: dict, reason: str) -> Tensor:
        self.blocks_whole += 1
        self.whole_reason = reason
        output = original(*args, **kwargs)
        slot = index * self.run.plan.mode.stores_per_block
        for part in self._parts:
            part.kept.store.write_difference(slot, output[part.group.rows], x[part.group.rows])
        return output

    def _update(self, part: _Part, index: int, fresh: Tensor) -> Tensor:
        """The block's residual for all tokens `[rows, N, dim]`. What stays kept are computed values only.

        An estimate is used once and each starts again from the last computed value: errors do not add up.
        """
        mode, store, selection = self.run.plan.mode, part.kept.store, part.selection
        slot = index * mode.stores_per_block
        kept = store.read(slot)
        if mode.token_estimator == "forecast":
            older = store.read(slot + 1)
            estimate = kept.clone() if part.weights is None else forecast_tokens(kept, older, part.weights)
            store.write(slot + 1, selection.put(older, selection.gather(kept)))
        elif mode.token_estimator == "hold":
            estimate = hold_tokens(kept)
        elif part.weights is None:
            estimate = refit_tokens(kept, selection.gather(kept), fresh)
        else:
            estimate = scaled_refit_tokens(kept, selection.gather(kept), fresh, part.weights)
        store.write(slot, selection.put(kept, fresh))
        return estimate if estimate is kept else selection.put(estimate, fresh)
