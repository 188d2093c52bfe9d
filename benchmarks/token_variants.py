"""Ablations of token steps, as patches of the engine; the baseline is mode `default`. See `quality_variants.py`."""

from __future__ import annotations

import torch
from quality_variants import Variant, keep_three
from torch import Tensor, nn

from astraea.engine import cond_state as branch
from astraea.engine import run, selection
from astraea.engine.calls import FullCall, Original, TokenCall, _Part
from astraea.engine.calls import base as call
from astraea.engine.estimators import forecast, refit
from astraea.engine.selection import Selection

PATCH = (1, 2, 2)  # latents of one token in the embedded models, in frames, rows and columns


def _largest_change(x: Tensor, reference: Tensor) -> Tensor:
    return (x - reference).float().abs().amax(-1)


def _mean_change(x: Tensor, reference: Tensor) -> Tensor:
    return (x - reference).float().abs().mean(-1)


def _relative_change(x: Tensor, reference: Tensor) -> Tensor:
    size = reference.float().square().mean(-1).sqrt()
    return selection.rms_change(x, reference) / size.clamp_min(1e-6)


def _normalised_change(x: Tensor, reference: Tensor) -> Tensor:
    """Of what the first block's layer norm makes of its input, before the modulation."""
    width = x.shape[-1:]
    return selection.rms_change(nn.functional.layer_norm(x, width), nn.functional.layer_norm(reference, width))


def per_token(latents: Tensor) -> Tensor:
    """Root mean square of latents `[rows, C, T, H, W]` over each token's patch, `[rows, N]`."""
    square = latents.float().square().mean(1, keepdim=True)
    return nn.functional.avg_pool3d(square, PATCH).sqrt().flatten(1)


def _own_branch(self: TokenCall, kept: branch.KeptTokens) -> branch.CondState:
    return next(owner for _, owner in self.groups if owner.tokens is kept)


def _by_prediction(self: TokenCall, change: Tensor, kept: branch.KeptTokens) -> Tensor:
    """How far each token's denoised latents moved between the last two steps."""
    history = _own_branch(self, kept).denoised
    moved = per_token(history[0][1] - history[1][1]) if len(history) > 1 else change
    return selection.select(selection.change_score(moved, kept.ages), self.computed, self.layout.video_slice)


def _by_forecast_miss(self: TokenCall, change: Tensor, kept: branch.KeptTokens) -> Tensor:
    """How far each token's denoised latents were from the line through the two steps before."""
    history = _own_branch(self, kept).denoised
    if len(history) > 2:
        (sigma, newest), *before = history
        change = per_token(newest - forecast.extrapolate_prediction(before, sigma, 1.0))
    return selection.select(selection.change_score(change, kept.ages), self.computed, self.layout.video_slice)


def _by_both(self: TokenCall, change: Tensor, kept: branch.KeptTokens) -> Tensor:
    """Scores of the input's change and of the prediction's, added."""
    history = _own_branch(self, kept).denoised
    score = selection.change_score(change, kept.ages)
    if len(history) > 1:
        score = score + selection.change_score(per_token(history[0][1] - history[1][1]), torch.zeros_like(kept.ages))
    return selection.select(score, self.computed, self.layout.video_slice)


KEEP_PREDICTIONS = ((run.Run, "_reuse_follows", lambda *_: True), (branch.CondState, "keep_denoised", keep_three))


def _count_of_each_call(self: run.Run, budget: float, video: int) -> int:
    """Cond and uncond, where they are calls of their own, can so differ by a few tokens."""
    count = selection.selected_count(budget, video, self._owed)
    self._owed += budget * video - count
    return count


SHIPPED_FULL, SHIPPED_TOKEN = FullCall.forward, TokenCall.forward


def _full_with_entries(
    self: FullCall, index: int, block: nn.Module, original: Original, x: Tensor, args: tuple, kwargs: dict
) -> Tensor:
    for group, owner in self.groups:
        if owner.tokens is not None:
            entries = owner.tokens.__dict__.setdefault("entries", {})
            entries[index] = (x[group.rows].clone(), torch.zeros_like(owner.tokens.ages))
    return SHIPPED_FULL(self, index, block, original, x, args, kwargs)


def _token_by_block(
    self: TokenCall, index: int, block: nn.Module, original: Original, x: Tensor, args: tuple, kwargs: dict
) -> Tensor:
    """Every block chooses by the change of its own input since each token was last computed in it."""
    for part in self._parts:
        rows = x[part.group.rows]
        reference, ages = part.kept.entries[index]
        change = selection.rms_change(rows, reference)
        score = selection.change_score(change, ages)
        part.selection = Selection(selection.select(score, self.computed, self.layout.video_slice), x.shape[1])
        part.weights = refit.change_weights(change, part.selection.indices)
        part.selection.put(reference, part.selection.gather(rows))
        ages.add_(1.0).scatter_(1, part.selection.indices, 0.0)
    chosen = [part.selection.indices for part in self._parts]
    self._selection = Selection(torch.cat(chosen), x.shape[1])
    return SHIPPED_TOKEN(self, index, block, original, x, args, kwargs)


def _adopt_estimates(self: TokenCall, part: _Part, index: int, fresh: Tensor) -> Tensor:
    """Estimates are kept, too: each goes on from the one before."""
    kept, chosen = part.kept.store.read(index), part.selection
    estimate = refit.scaled_refit_tokens(kept, chosen.gather(kept), fresh, part.weights)
    part.kept.store.write(index, chosen.put(estimate, fresh))
    return estimate


def _mean_drift(kept_fresh: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets only."""
    offset = (fresh.float() - kept_fresh.float()).mean(1, keepdim=True)
    return offset.new_ones(offset.shape), offset


def _slope_per_head(kept_fresh: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """One slope for all channels of a head (of size 128), an offset for each channel."""
    kept_fresh, fresh = kept_fresh.float(), fresh.float()
    kept_mean, new_mean = kept_fresh.mean(1, keepdim=True), fresh.mean(1, keepdim=True)
    product = ((kept_fresh - kept_mean) * (fresh - new_mean)).mean(1, keepdim=True).unflatten(-1, (-1, 128))
    square = (kept_fresh - kept_mean).square().mean(1, keepdim=True).unflatten(-1, (-1, 128))
    slope = product.sum(-1, keepdim=True) / square.sum(-1, keepdim=True).clamp_min(1e-12)
    slope = slope.clamp(refit.MIN_SLOPE, refit.MAX_SLOPE).expand_as(product).flatten(-2)
    return slope, new_mean - slope * kept_mean


TOKEN_VARIANTS = (
    Variant("change: mean absolute", ((call, "rms_change", _mean_change),)),
    Variant("change: largest channel", ((call, "rms_change", _largest_change),)),
    Variant("change: relative", ((call, "rms_change", _relative_change),)),
    Variant("change of: the normalised input", ((call, "rms_change", _normalised_change),)),
    Variant("change of: the prediction", (*KEEP_PREDICTIONS, (TokenCall, "_choose", _by_prediction))),
    Variant("change of: input and prediction", (*KEEP_PREDICTIONS, (TokenCall, "_choose", _by_both))),
    Variant("score: the forecast's miss", (*KEEP_PREDICTIONS, (TokenCall, "_choose", _by_forecast_miss))),
    Variant("selection: a count for each call", ((run.Run, "_count", _count_of_each_call),)),
    Variant(
        "selection: per block", ((FullCall, "forward", _full_with_entries), (TokenCall, "forward", _token_by_block))
    ),
    Variant("age: none", ((selection, "AGE_WEIGHT", 0.0),)),
    Variant("age: 0.05", ((selection, "AGE_WEIGHT", 0.05),)),
    Variant("age: 0.3", ((selection, "AGE_WEIGHT", 0.3),)),
    Variant("age: 1", ((selection, "AGE_WEIGHT", 1.0),)),
    Variant("kept: estimates, too", ((TokenCall, "_update", _adopt_estimates),)),
    Variant("ridge: 0", ((refit, "RIDGE_TOKENS", 0.0),)),
    Variant("ridge: 16", ((refit, "RIDGE_TOKENS", 16.0),)),
    Variant("ridge: 64", ((refit, "RIDGE_TOKENS", 64.0),)),
    Variant("slope: 0.8...1.25", ((refit, "LEAST_SLOPE", 0.8), (refit, "MOST_SLOPE", 1.25))),
    Variant("slope: unclamped", ((refit, "LEAST_SLOPE", -1e9), (refit, "MOST_SLOPE", 1e9))),
    Variant("statistics: offset only", ((refit, "drift_of", _mean_drift),)),
    Variant("statistics: one slope per head", ((refit, "drift_of", _slope_per_head),)),
    Variant("weight: at most 1", ((refit, "MOST_WEIGHT", 1.0),)),
    Variant("weight: at most 3", ((refit, "MOST_WEIGHT", 3.0),)),
)
