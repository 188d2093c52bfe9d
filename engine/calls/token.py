"""A token step: the selected tokens run through every block, the others follow an estimate of their residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..blocks.interface import Attend, BlockCall
from ..blocks.selection import Selection, change_score, rms_change, select_tokens
from ..report import TOKEN
from ..state.cond_state import TokenState
from .base import ModelCall
from .context import CondRows


@dataclass(frozen=True)
class _CondTokens:
    """One conditioning in a token step. weights: the estimator's, `[rows, N, 1]`, or None."""

    cond: CondRows
    state: TokenState
    selection: Selection
    weights: Tensor | None


class TokenCall(ModelCall):
    """Computes the selected tokens."""

    kind = TOKEN
    runs_blocks = True

    def begin(self, hidden: Tensor) -> None:
        parts = [self._select(cond, hidden[cond.rows]) for cond in self.info.conds]
        self._parts = parts
        indices = torch.cat([part.selection.indices for part in parts])
        self._selection = Selection(indices, hidden.shape[1], allocating=self.info.allocating)
        layout = self.info.layout
        video = indices[:, layout.prefix : indices.shape[1] - layout.suffix]
        for_selected = self.info.attend_selected
        self._attend: Attend = self.info.attend if for_selected is None else for_selected(video)

    def end_blocks(self) -> None:
        self._selection.derived.clear()
        self._attend = self.info.attend

    def _select(self, cond: CondRows, hidden: Tensor) -> _CondTokens:
        """Select one conditioning's tokens and note that they are computed."""
        state, sigma, estimator = cond.state.tokens, self.info.sigma, self.context.mode.token_estimator
        if state is None:
            raise AssertionError("a token step was planned for a conditioning without anything kept")
        change = rms_change(hidden, state.inputs)
        score = self._random_score(change) if self.context.mode.random else change_score(change, state.ages)
        selection = select_tokens(score, self.tokens, self.info.layout.video_slice)
        weights = estimator.weights(sigma, change, selection, state.estimator_state)
        selection.put(state.inputs, selection.gather(hidden))
        state.ages.add_(1.0).scatter_(1, selection.indices, 0.0)
        estimator.advance(sigma, selection, state.estimator_state)
        return _CondTokens(cond, state, selection, weights)

    def _random_score(self, change: Tensor) -> Tensor:
        # Seeded by the step, for the same tokens in all conditionings: guidance would amplify a difference.
        generator = torch.Generator().manual_seed(self.context.seed_at(self.info.step))
        return torch.rand((1, change.shape[1]), generator=generator).expand_as(change).to(change.device)

    def forward(self, call: BlockCall, hidden: Tensor) -> Any:
        reason = self.full_block_reason(call)
        if reason:
            result, before, after = self.run_for_all_tokens(call, hidden, reason)
            for part in self._parts:
                rows, store, newest = part.cond.rows, part.state.store, call.index * self.context.mode.slots
                self._move_on(part, newest, [store.read(newest + age) for age in range(self.context.mode.slots)])
                store.write_difference(newest, after[rows], before[rows])
            return result
        fresh, _ = self.runner.forward_tokens(call, self._selection, self._attend)
        in_place = self.runner.in_place
        output = hidden if in_place else torch.empty_like(hidden, memory_format=torch.contiguous_format)
        for part in self._parts:
            rows = part.cond.rows
            torch.add(hidden[rows], self._residuals(part, call.index, fresh[rows]), out=output[rows])
        return self.runner.pack(output, call)

    def _residuals(self, part: _CondTokens, index: int, fresh: Tensor) -> Tensor:
        """Return the block's residuals for all tokens `[rows, N, dim]`, and keep the fresh ones.

        Estimates are not kept: each starts from computed residuals, so that errors do not add up.
        """
        mode, store, selection = self.context.mode, part.state.store, part.selection
        newest = index * mode.slots
        kept = [store.read(newest + age) for age in range(mode.slots)]
        estimate = mode.token_estimator.estimate(kept, selection, fresh, part.weights)
        self._move_on(part, newest, kept)
        store.write(newest, selection.put(kept[0], fresh))
        return estimate if estimate is kept[0] else selection.put(estimate, fresh)

    def _move_on(self, part: _CondTokens, newest: int, kept: list[Tensor]) -> None:
        """Move the selected tokens' older residuals on by a slot. kept: residuals by slot, the first in `newest`."""
        for age in range(len(kept) - 1, 0, -1):
            moved = part.selection.put(kept[age], part.selection.gather(kept[age - 1]))
            part.state.store.write(newest + age, moved)
