"""What stands around attention: the passes over rows that selection and estimation cost, and a whole Wan block.

The block is the embedded model's at real sizes with random weights, run for selected rows as in a token step; the
rotation is the pack's, which is also ComfyUI's. No ComfyUI is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from attention_measure import Case, Stopwatch, Work, dtype_name, queries_of, race, rows_of
from torch import Tensor

from astraea.engine.cost import BlockCost
from astraea.engine.estimators.refit import change_weights, drift, refit_tokens, scaled_refit_tokens
from astraea.engine.selection import Selection, rms_change, select
from astraea.kernels import attend
from astraea.models.rotary import rotate
from astraea.models.wan import WanRunner
from astraea.tiny.model import HEAD_DIM, Block, ModelConfig, SelfAttention, rotary_table

BLOCK_SHARES = (0.05, 0.25, 0.5, 0.75, 1.0)
CALLS = 4  # one after another within a timing: launching the next overlaps with the device's work, as in a model
EAGER, GRAPH = "eager", "CUDA graph"
DENSE = "dense"


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
    """All rows with the attention and the rotation that selected rows get: only the number of rows differs."""

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
    """Scattered tokens, as many as the engine would take."""
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
        call = partial(runner.forward_tokens, block, (), arguments, selection, attend)
        works[Case("rows", False, share, selection.count)] = partial(_residual, call)
    return works


def _residual(call: Callable[[], tuple[Tensor, Tensor | None]]) -> Tensor:
    return call()[0]


def captured(work: Callable[[], object], pool: Any) -> Callable[[], object]:
    """The same work as a CUDA graph, which is replayed without any launch by the host."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()
    return graph.replay


def repeated(work: Callable[[], object]) -> Work:
    def calls(turn: int) -> None:
        for _ in range(CALLS):
            work()

    return calls


def alone(work: Callable[[], object]) -> Work:
    return lambda turn: work()


def measure_block(
    size: BlockSize, dtype: torch.dtype, device: torch.device, seed: int, rounds: int, until: float
) -> dict[str, Any]:
    """Milliseconds of a block, dense and for selected rows, launched one by one and as a CUDA graph."""
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
    works = {_named(case, EAGER): repeated(work) for case, work in singles.items()}
    if device.type == "cuda":
        pool = torch.cuda.graph_pool_handle()
        for case, work in singles.items():
            try:
                works[_named(case, GRAPH)] = repeated(captured(work, pool))
            except RuntimeError as error:  # an operation that cannot be recorded, or no memory for a graph
                found.setdefault("failures", {})[f"{case.entrant} {case.share:g}"] = str(error).strip()[:160]
    times, failures = race(works, Stopwatch(device, cover=False), rounds=rounds, until=until, slow=math.inf)
    found["failures"] = found.get("failures", {}) | failures
    cost = BlockCost(size.tokens, size.dim, size.feed_forward, size.context)
    found["rows"] = [
        row | {"ms": row["ms"] / CALLS, "cost": cost.share(row["queries"] / size.tokens)} for row in rows_of(times)
    ]
    return found


def _named(case: Case, how: str) -> Case:
    return Case(f"{case.entrant}, {how}", case.need_lse, case.share, case.queries)


def _difference(x: Tensor, works: dict[Case, Callable[[], Tensor]]) -> float | None:
    """Between what the dense block and all rows selected add to x, relative: is the same block measured twice?

    None where it is no number.
    """
    (dense,) = (work for case, work in works.items() if case.entrant == DENSE)
    (rows,) = (work for case, work in works.items() if case.entrant != DENSE and case.share == 1.0)
    added = (dense() - x).float()
    difference = ((rows().float() - added).norm() / added.norm()).item()
    return difference if math.isfinite(difference) else None


# --- passes over rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """elements: what must be read and written at least, `[N, dim]` or `[M, dim]` tensors in elements."""

    name: str
    run: Callable[[], object]
    elements: float


def passes(tokens: int, dim: int, dtype: torch.dtype, device: torch.device, share: float, seed: int) -> list[Pass]:
    """The row operations of a token step, as the engine does them."""
    selection = random_selection(share, tokens, device, seed)
    generator = torch.Generator(device).manual_seed(seed)
    x, kept, target = (torch.randn(1, tokens, dim, generator=generator, device=device, dtype=dtype) for _ in range(3))
    shift, scale = (torch.randn(1, 1, dim, generator=generator, device=device, dtype=dtype) for _ in range(2))
    fresh, kept_fresh = selection.gather(x), selection.gather(kept)
    change = rms_change(x, kept)
    weights = change_weights(change, selection.indices)
    all_, few = float(tokens * dim), float(selection.count * dim)
    return [
        Pass("gather rows", lambda: selection.gather(x), 2 * few),
        Pass("put rows back", lambda: selection.put(target, fresh), 2 * few),
        Pass(
            "LayerNorm and modulate",
            lambda: torch.addcmul(shift, F.layer_norm(x, (dim,), eps=1e-6), 1 + scale),
            2 * all_,
        ),
        Pass("refit: statistics", lambda: drift(kept_fresh, fresh), 2 * few),
        Pass("refit: statistics and apply", lambda: refit_tokens(kept, kept_fresh, fresh), 2 * few + 2 * all_),
        Pass(
            "scaled refit: statistics and apply",
            lambda: scaled_refit_tokens(kept, kept_fresh, fresh, weights),
            2 * few + 2 * all_,
        ),
        Pass("change of tokens", lambda: rms_change(x, kept), 2 * all_),
        # Once per call and not per block; its traffic is too little for a rate to mean anything.
        Pass("choose the tokens", lambda: select(change, selection.count, slice(0, tokens)), 0.0),
    ]


def measure_passes(
    tokens: int, dim: int, dtype: torch.dtype, device: torch.device, share: float, seed: int, rounds: int, until: float
) -> dict[str, Any]:
    """Milliseconds of each pass, and the bytes it needs at least."""
    listed = passes(tokens, dim, dtype, device, share, seed)
    works = {Case(entry.name, False, share, queries_of(share, tokens)): alone(entry.run) for entry in listed}
    times, failures = race(works, Stopwatch(device), rounds=rounds, until=until, slow=math.inf)
    bytes_ = {entry.name: entry.elements * dtype.itemsize for entry in listed}
    rows: Sequence[dict[str, Any]] = [row | {"bytes": bytes_[row["entrant"]]} for row in rows_of(times)]
    return {"tokens": tokens, "dim": dim, "share": share, "rows": rows, "failures": failures}
