"""Token steps of one process that select and refit within parts of the tokens, as several GPUs do, each within its own.

What ranks compute is compared with this, so it says a second time, by itself, what "by shard" means.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from astraea.engine import run
from astraea.engine.blocks.selection import Selection, change_score, rms_change, select_tokens
from astraea.engine.calls import TokenCall


def select_by_shard(monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    """Makes the engine's token steps work by so many shards."""

    class Counts(run.TokenCounts):
        def count(self, budget: float, video: int) -> int:
            return shards * super().count(budget, video // shards)

    class Call(ByShard):
        count = shards

    monkeypatch.setattr(run, "TokenCounts", Counts)
    monkeypatch.setattr(run, "TokenCall", Call)


class ByShard(TokenCall):
    count = 1

    def _select(self, cond: Any, hidden: Tensor) -> Any:
        state, sigma, estimator = cond.state.tokens, self.info.sigma, self.context.mode.token_estimator
        rows, tokens, _ = hidden.shape
        size = tokens // self.count
        change = rms_change(hidden, state.inputs).view(rows * self.count, size)
        score = change_score(change, state.ages.view(rows * self.count, size))
        part = select_tokens(score, self.tokens // self.count, slice(0, size))
        offsets = torch.arange(self.count).repeat(rows).unsqueeze(1) * size
        selection = Selection((part.indices + offsets).view(rows, -1), tokens)
        weights = estimator.weights(sigma, change, part, None)
        selection.put(state.inputs, selection.gather(hidden))
        state.ages.add_(1.0).scatter_(1, selection.indices, 0.0)
        return _Parts(cond, state, selection, weights, part)

    def _residuals(self, part: Any, index: int, fresh: Tensor) -> Tensor:
        kept = part.state.store.read(index)
        shards = (part.part.indices.shape[0], -1, kept.shape[-1])
        estimator = self.context.mode.token_estimator
        estimate = estimator.estimate([kept.view(shards)], part.part, fresh.reshape(shards), part.weights)
        part.selection.put(kept, fresh)
        part.state.store.write(index, kept)
        return part.selection.put(estimate.reshape(kept.shape).contiguous(), fresh)


class _Parts:
    def __init__(self, cond: Any, state: Any, selection: Selection, weights: Any, part: Selection):
        self.cond, self.state, self.selection, self.weights, self.part = cond, state, selection, weights, part
