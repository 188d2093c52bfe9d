"""Selection of the tokens that a call computes. No host–device synchronisation, deterministic on ties."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

AGE_WEIGHT = 0.1  # per step not selected, in standard deviations of the change score
PAPER_AGE_WEIGHT = 0.5  # paper, §3: w_b
MAX_AGE = 60.0  # e^60 is still finite in fp32


def granularity(tokens: int) -> int:
    """Return the unit that counts of selected tokens are rounded to, so that tensors keep few shapes."""
    return 128 if tokens >= 2048 else 16


def selected_count(budget: float, tokens: int, carry: float = 0.0) -> int:
    """Return M for a budget θ: θN plus `carry`, the rest of earlier roundings, in whole units, from one unit to N."""
    unit = granularity(tokens)
    wanted = round((budget * tokens + carry) / unit) * unit
    return max(min(unit, tokens), min(tokens, wanted))


@dataclass
class Selection:
    """The tokens computed in one call: `indices` int64 `[rows, M]`, ascending within each row.

    derived: what runners compute from the indices once per call (rotary positions of the selected tokens); allocating:
    context in which they do, as it outlives a block, see `CallRequest`.
    """

    indices: Tensor
    tokens: int
    derived: dict = field(default_factory=dict)
    allocating: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __post_init__(self) -> None:
        rows = torch.arange(self.indices.shape[0], device=self.indices.device).unsqueeze(1)
        self.flat = (self.indices + rows * self.tokens).flatten()

    @property
    def count(self) -> int:
        return self.indices.shape[1]

    def gather(self, x: Tensor) -> Tensor:
        """Return the selected tokens `[B, M, C]` of `[B, N, C]`."""
        return x.flatten(0, 1).index_select(0, self.flat).unflatten(0, self.indices.shape)

    def put(self, x: Tensor, fresh: Tensor) -> Tensor:
        """Write `[B, M, C]` to the selected tokens of a contiguous `[B, N, C]`, in place; returns it."""
        x.view(-1, x.shape[-1]).index_copy_(0, self.flat, fresh.flatten(0, 1))
        return x


def rms_change(x: Tensor, earlier: Tensor) -> Tensor:
    """Return the root mean square over channels of x − earlier, fp32 `[rows, N]`."""
    difference = (x - earlier).float()
    return torch.linalg.vecdot(difference, difference).div_(x.shape[-1]).sqrt_()


def change_score(change: Tensor, ages: Tensor) -> Tensor:
    """Return the change, z-scored over tokens, plus 0.1 per step of age; `[rows, N]`."""
    deviation = change.std(1, keepdim=True, correction=0).clamp_min(torch.finfo(change.dtype).tiny)
    return (change - change.mean(1, keepdim=True)) / deviation + AGE_WEIGHT * ages


def paper_score(change: Tensor, lse: Tensor, ages: Tensor) -> Tensor:
    """Return LSE · Δ + 0.5 · eⁿ (paper, §3). change, lse and ages `[rows, N]`; lse is the mean over heads."""
    return lse * change + PAPER_AGE_WEIGHT * ages.clamp(max=MAX_AGE).exp()


def select_tokens(score: Tensor, count: int, video: slice) -> Selection:
    """Select the `count` video tokens with the highest score `[rows, N]`, and all tokens outside the slice `video`."""
    tokens = score.shape[1]
    order = torch.sort(score[:, video], dim=1, descending=True, stable=True).indices[:, :count] + video.start
    around = [*range(video.start), *range(video.stop, tokens)]
    if around:
        always = torch.tensor(around, device=score.device).expand(score.shape[0], -1)
        order = torch.cat([order, always], dim=1)
    return Selection(order.sort(dim=1).values, tokens)
