"""A whole Wan block, dense and for selected rows.

The block is the embedded model's at real sizes with random weights, run for selected rows as in a token step; the
rotation is the pack's, which is also ComfyUI's. No ComfyUI is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from astraea.engine.blocks.interface import BlockCall
from astraea.engine.blocks.selection import Selection
from astraea.engine.planning.cost import BlockCost
from astraea.kernels import attend
from astraea.models.rotary import rotate
from astraea.models.wan import WanRunner
from astraea.tiny.model import HEAD_DIM, Block, ModelConfig, SelfAttention, rotary_table

from .measure import Case, Stopwatch, Work, dtype_name, queries_of, race, rows_of
from .tables import DENSE, ROWS

BLOCK_SHARES = (0.05, 0.25, 0.5, 0.75, 1.0)
CALLS = 4  # consecutive calls per timing: launching the next overlaps with the device's work, as in a model


@dataclass(frozen=True)
class BlockSize:
    """A block and its tokens on a grid of frames, height and width."""

    label: str
    dim: int
    feed_forward: int
    grid: tuple[int, int, int]
    context: int = 512

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def heads(self) -> int:
        return self.dim // HEAD_DIM


class DenseSelfAttention(SelfAttention):
    """Dense self-attention with the code of selected rows: only the number of rows differs."""

    def forward(self, x: Tensor, freqs: Tensor) -> Tensor:
        heads = (self.num_heads, self.head_dim)
        q = rotate(self.norm_q(self.q(x)).unflatten(-1, heads), freqs)
        k = rotate(self.norm_k(self.k(x)).unflatten(-1, heads), freqs)
        mixed, _ = attend(q, k, self.v(x).unflatten(-1, heads))
        return self.o(mixed.flatten(2))


def random_block(
    size: BlockSize, dtype: torch.dtype, device: torch.device, seed: int
) -> tuple[Block, dict[str, Tensor]]:
    """A block and its arguments."""
    torch.manual_seed(seed)
    with device:
        block = Block(ModelConfig(dim=size.dim, feed_forward=size.feed_forward, layers=1))
        block.self_attn = DenseSelfAttention(size.dim, size.heads)
        arguments = {
            "x": torch.randn(1, size.tokens, size.dim, dtype=dtype),
            "e": (torch.randn(1, 1, 6, size.dim) * 0.1).to(dtype),
            "freqs": rotary_table(*size.grid),
            "context": torch.randn(1, size.context, size.dim, dtype=dtype),
        }
    return block.to(dtype).eval().requires_grad_(False), arguments


def random_selection(share: float, tokens: int, device: torch.device, seed: int) -> Selection:
    """Random tokens, as many as the engine would select."""
    count = queries_of(share, tokens)
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))[:count]
    return Selection(order.sort().values.unsqueeze(0).to(device), tokens)


def block_works(block: Block, arguments: dict[str, Tensor], seed: int) -> dict[Case, Callable[[], Tensor]]:
    """One call of the dense block, and one for each share of the rows."""
    tokens, device = arguments["x"].shape[1], arguments["x"].device
    runner = WanRunner(lambda parameter, like: parameter.to(like))
    works: dict[Case, Callable[[], Tensor]] = {Case(DENSE, False, 1.0, tokens): lambda: block(**arguments)}
    for share in BLOCK_SHARES:
        selection = random_selection(share, tokens, device, seed)
        call = partial(runner.forward_tokens, BlockCall(0, block, block.forward, (), arguments), selection, attend)
        works[Case(ROWS, False, share, selection.count)] = partial(_residual, call)
    return works


def _residual(call: Callable[[], tuple[Tensor, Tensor | None]]) -> Tensor:
    return call()[0]


def repeated(work: Callable[[], object]) -> Work:
    def calls(turn: int) -> None:
        for _ in range(CALLS):
            work()

    return calls


def measure_block(
    size: BlockSize, dtype: torch.dtype, device: torch.device, seed: int, rounds: int, until: float
) -> dict[str, Any]:
    """Milliseconds of a block, dense and for selected rows, by case."""
    block, arguments = random_block(size, dtype, device, seed)
    singles = block_works(block, arguments, seed)
    found: dict[str, Any] = {
        "label": size.label,
        "tokens": size.tokens,
        "dim": size.dim,
        "feed_forward": size.feed_forward,
        "dtype": dtype_name(dtype),
        "calls": CALLS,
        "difference": _difference(arguments["x"], singles),
    }
    works = {case: repeated(work) for case, work in singles.items()}
    times, failures = race(works, Stopwatch(device, cover=False), rounds=rounds, until=until, slow=math.inf)
    found["failures"] = failures
    cost = BlockCost.of(size.tokens, size.dim, size.feed_forward, size.context)
    found["rows"] = [
        row | {"ms": row["ms"] / CALLS, "cost": cost.relative_cost(row["queries"] / size.tokens)}
        for row in rows_of(times)
    ]
    return found


def _difference(x: Tensor, works: dict[Case, Callable[[], Tensor]]) -> float | None:
    """Relative difference of the dense block and of all rows selected, which are the same block; None if not finite."""
    (dense,) = (work for case, work in works.items() if case.entrant == DENSE)
    (rows,) = (work for case, work in works.items() if case.entrant != DENSE and case.share == 1.0)
    added = (dense() - x).float()
    difference = ((rows().float() - added).norm() / added.norm()).item()
    return difference if math.isfinite(difference) else None
