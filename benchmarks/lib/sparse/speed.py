"""Measures the speed of sparse attention: kernels over lists, finding the lists, whole blocks.

Lists come from the engine's own routing. Times are raw here; speed_tables.py derives the rest from them. Import after
the pack was loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from astraea.engine.sparse.allocation import Allocation
from astraea.engine.sparse.call import TileCall
from astraea.engine.sparse.candidates import CANDIDATES, ROUTED, ROUTING, HeadChoice, TileProblem
from astraea.engine.sparse.layout import Grid, RowLayout
from astraea.engine.sparse.methods import choose_by_error
from astraea.engine.sparse.orders import token_orders
from astraea.engine.sparse.plan import SparsePlan
from astraea.engine.sparse.probe import sampled_rows
from astraea.kernels import DISPATCHER, FAST, Backend, KeyTiles, attend
from astraea.models.rotary import rotate
from astraea.tiny.model import Block

from ..attention.block import CALLS, BlockSize, DenseSelfAttention, random_block, repeated
from ..attention.measure import (
    Case,
    Shape,
    Stopwatch,
    Times,
    Work,
    able,
    chosen,
    dtype_name,
    race,
    rows_of,
    several_inputs,
)
from ..attention.session import BF16, FP32, WAN_1_3B, WAN_14B, Session
from ..attention.tables import SDPA
from ..results import write_json
from .speed_tables import (
    ALL_BUT_ONE,
    DENSE,
    LISTS,
    MIXED,
    PROBE,
    RASTER,
    SELECTION,
    WRITERS,
    derive_block,
    derive_shape,
)

IN_ORDERS = tuple(each for each in CANDIDATES if each.kind == ROUTED)  # one after another over the heads
GPU_DENSITIES = (0.2, 0.3, 0.5, 1.0)
CPU_DENSITIES = (0.2, 0.3, 0.5, 0.75, ALL_BUT_ONE, 1.0)
DENSITY = 0.3  # of selection, choice and blocks
RASTER_DENSITIES = (DENSITY, 1.0)  # enough to see what orders cost
LAYERS = 30  # that share one allocation, as in a model of 1.3B


@dataclass(frozen=True)
class VideoShape(Shape):
    """Self-attention of one clip whose tokens lie on a grid."""

    grid: Grid = (1, 1, 1)

    @staticmethod
    def of(grid: Grid, heads: int, head_dim: int, dtype: torch.dtype) -> VideoShape:
        return VideoShape(math.prod(grid), heads, head_dim, dtype, grid)

    def tile_call(self, device: torch.device) -> TileCall:
        return tile_call(self.grid, device)


GPU_PARTS = (
    VideoShape.of((21, 30, 52), 12, 128, BF16),
    WAN_1_3B,
    VideoShape.of((21, 30, 52), 40, 128, BF16),
    VideoShape.of((9, 30, 52), 12, 128, BF16),
    VideoShape.of((21, 30, 52), 24, 64, BF16),
    WAN_14B,
    VideoShape.of((21, 45, 80), 40, 128, BF16),
    VideoShape.of((5, 40, 74), 56, 128, BF16),
    BlockSize("Wan 2.1 14B, 720p", 5120, 13824, (21, 45, 80)),
)
SMALL_PARTS = (
    VideoShape.of((4, 12, 16), 3, 128, FP32),
    VideoShape.of((3, 10, 15), 3, 64, FP32),
    BlockSize("small", 256, 1024, (4, 16, 16)),
)
CPU_PARTS = (VideoShape.of((4, 32, 32), 2, 128, FP32), VideoShape.of((4, 32, 32), 2, 64, FP32))


class SparseSession(Session):
    """A run with this benchmark's tables."""

    def save(self) -> None:
        write_json(self.path, self.result)
        self.path.with_suffix(".md").write_text(WRITERS[self.result["benchmark"]](self.result), "utf-8")

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"


def tile_call(grid: Grid, device: torch.device) -> TileCall:
    """A full call over the tokens of a grid, with tiles of the usual sizes."""
    rows, plan = RowLayout(math.prod(grid), grid=grid), SparsePlan()
    return TileCall.of(rows, token_orders(rows, plan.key_tile, device), plan.query_tile, plan.key_tile)


def choice_of(orders: str, density: float, heads: int) -> HeadChoice:
    """Routing for all heads: in the model's own order, or in each order for a third of the heads."""
    ways = [ROUTING] if orders == RASTER else IN_ORDERS
    return HeadChoice(tuple(ways[head % len(ways)] for head in range(heads)), (density,) * heads)


# --- attention over lists, selection and choice -----------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """Kind, backend and orders of a timed case. name: of the backend."""

    kind: str
    name: str
    orders: str | None = None
    exact: bool = True

    @property
    def label(self) -> str:
        return " ".join(filter(None, (self.kind, self.name, self.orders)))


class ShapeRace:
    """The cases of one shape: works by case, and what each is."""

    def __init__(self, shape: VideoShape, device: torch.device, seed: int, densities: Sequence[float]):
        self.shape, self.seed, self.densities = shape, seed, densities
        self.call = shape.tile_call(device)
        self.inputs = several_inputs(shape, device, seed)
        self.works: dict[Case, Work] = {}
        self.entries: dict[str, Entry] = {}

    def problem(self, number: int) -> TileProblem:
        """The problem of one of the inputs; it keeps what it has computed, so each call needs its own."""
        return TileProblem(self.call, *self.inputs[number % len(self.inputs)], self.shape.head_dim**-0.5)

    def add(self, entry: Entry, density: float, work: Work) -> None:
        self.entries[entry.label] = entry
        self.works[Case(entry.label, False, density, self.shape.tokens)] = work

    def lists(self, orders: str, density: float) -> list[KeyTiles]:
        """The lists of all inputs."""
        choice = choice_of(orders, density, self.shape.heads)
        return [self.problem(number).key_tiles(choice, False) for number in range(len(self.inputs))]

    def add_dense(self, name: str, attention: Callable[..., object]) -> None:
        self.add(Entry(DENSE, name), 1.0, lambda turn: attention(*self.inputs[turn % len(self.inputs)]))

    def add_lists(self, backends: Sequence[tuple[Entry, Callable[..., object]]]) -> None:
        """backends: of `(q, k, v, key_tiles=…)`."""
        for orders, densities in ((MIXED, self.densities), (RASTER, RASTER_DENSITIES)):
            for density in densities:
                lists = self.lists(orders, density)
                for entry, attention in backends:
                    work = partial(self._attend, attention, lists)
                    self.add(replace(entry, orders=orders), density, work)

    def _attend(self, attention: Callable[..., object], lists: list[KeyTiles], turn: int) -> object:
        number = turn % len(self.inputs)
        return attention(*self.inputs[number], key_tiles=lists[number])

    def add_finding(self) -> None:
        """The selection of tiles, and the choice of the heads' ways with the density divided among them.

        No head is over the limit in a real model, or few; random ones all are: without the limit.
        """
        for density in self.densities[:-1]:
            choice = choice_of(MIXED, density, self.shape.heads)
            work = partial(_select, self.problem, choice)
            self.add(Entry(SELECTION, "", MIXED), density, work)
        rows = sampled_rows(self.shape.tokens, self.seed, self.inputs[0][0].device)
        plan, allocation = SparsePlan(density=DENSITY, limit=0.0), Allocation(DENSITY)

        def choose(turn: int) -> object:
            return choose_by_error(self.problem(turn), rows, plan, allocation.of(turn % LAYERS, turn // LAYERS))

        self.add(Entry(PROBE, ""), DENSITY, choose)

    def rows(self, times: Times) -> list[dict[str, Any]]:
        found = []
        for row in rows_of(times):
            entry, density = self.entries[row["entrant"]], row["share"]
            found.append(
                {
                    "kind": entry.kind,
                    "entrant": entry.name,
                    "orders": entry.orders,
                    "exact": entry.exact,
                    "density": density,
                    "real_density": self.call.count(density) / self.call.key_tiles,
                    "ms": row["ms"],
                    "ms_by_round": row["ms_by_round"],
                }
            )
        return found


def _select(problem: Callable[[int], TileProblem], choice: HeadChoice, turn: int) -> KeyTiles:
    return problem(turn).key_tiles(choice, False)


def measure_shape(session: SparseSession, shape: VideoShape, until: float) -> None:
    """On a GPU every backend that takes lists; on a CPU what the dispatcher chooses, and torch's own attention."""
    device, is_cpu_run = session.device, session.result["benchmark"] == "sparse_speed_cpu"
    racing = ShapeRace(shape, device, session.args.seed, CPU_DENSITIES if is_cpu_run else GPU_DENSITIES)
    choice = chosen(shape, racing.inputs[0], False)
    described = replace(shape.problem(device, False), key_tiles=True)
    tiles = racing.lists(MIXED, DENSITY)[0]
    for_lists = DISPATCHER.choose(*racing.inputs[0], described, FAST, key_tiles=tiles).backend
    racing.add_dense(choice.backend.name, attend)
    if is_cpu_run:
        racing.add_dense(SDPA, _torch_own)
        racing.add_lists([(Entry(LISTS, for_lists.name), partial(attend, preference=FAST))])
        unavailable: dict[str, str] = {}
    else:
        backends, unavailable = able(described)
        scale = shape.head_dim**-0.5
        racing.add_lists([(_entry(each), partial(each, scale=scale, need_lse=False)) for each in backends])
    racing.add_finding()
    watch = Stopwatch(device)
    times, failures = race(racing.works, watch, rounds=session.rounds, until=until, slow=math.inf)
    entry = shape.described() | {"grid": list(shape.grid), "rows": racing.rows(times), "failures": failures}
    entry |= {"lists_choice": for_lists.name, "dense_choice": choice.milliseconds, "unavailable": unavailable}
    derive_shape(entry, session.result["predictions"])
    session.result["shapes"].append(entry)
    _print_shape(entry)


def _entry(backend: Backend) -> Entry:
    return Entry(LISTS, backend.name, exact=backend.exact)


def _torch_own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))


def _print_shape(entry: dict[str, Any]) -> None:
    for row in entry["rows"]:
        shown = (
            f"  {row['kind']:9} {row['entrant']:14} {row['orders'] or '':7} {row['density']:<5g} {row['ms']:9.3f} ms"
        )
        if row["kind"] == LISTS and row["speedup"] is not None:
            predicted = "" if row["predicted"] is None else f" (predicted {row['predicted']:.2f})"
            line = "" if row["linearity"] is None else f", linearity {row['linearity']:.3f}"
            shown += f"  {row['speedup']:.2f}x dense{predicted}{line}"
        elif row["kind"] in (SELECTION, PROBE) and row["to_dense"] is not None:
            shown += f"  {row['to_dense']:.1%} of dense per sparse call"
        print(shown, flush=True)


# --- whole blocks -----------------------------------------------------------------------------------------------------


class SparseSelfAttention(DenseSelfAttention):
    """Self-attention over lists that are found anew in every call, as the engine does between two choices."""

    def prepare(self, grid: Grid, density: float, device: torch.device) -> None:
        self.tiled, self.choice = tile_call(grid, device), choice_of(MIXED, density, self.num_heads)

    def forward(self, x: Tensor, freqs: Tensor) -> Tensor:
        heads = (self.num_heads, self.head_dim)
        q = rotate(self.norm_q(self.q(x)).unflatten(-1, heads), freqs)
        k = rotate(self.norm_k(self.k(x)).unflatten(-1, heads), freqs)
        v, scale = self.v(x).unflatten(-1, heads), self.head_dim**-0.5
        tiles = TileProblem(self.tiled, q, k, v, scale).key_tiles(self.choice, False)
        mixed, _ = attend(q, k, v, scale=scale, key_tiles=tiles, preference=FAST)
        return self.o(mixed.flatten(2))


def block_works(size: BlockSize, dtype: torch.dtype, device: torch.device, seed: int) -> dict[str, Callable[[], Any]]:
    """One call of a dense block, and of one with the same sizes that attends over lists."""

    def call(block: Block, arguments: dict[str, Tensor]) -> Tensor:
        return block(**arguments)

    dense, arguments = random_block(size, dtype, device, seed)
    sparse, _ = random_block(size, dtype, device, seed)
    attention = SparseSelfAttention(size.dim, size.heads).to(device, dtype).eval().requires_grad_(False)
    attention.load_state_dict(dense.self_attn.state_dict())
    attention.prepare(size.grid, DENSITY, device)
    sparse.self_attn = attention
    return {DENSE: partial(call, dense, arguments), LISTS: partial(call, sparse, arguments)}


def measure_block(session: SparseSession, size: BlockSize, until: float) -> None:
    """Milliseconds of a block, dense and at one density."""
    dtype = FP32 if session.on_cpu else BF16
    singles = block_works(size, dtype, session.device, session.args.seed)
    works = {Case(kind, False, 1.0, size.tokens): repeated(work) for kind, work in singles.items()}
    watch = Stopwatch(session.device, cover=False)
    times, failures = race(works, watch, rounds=session.rounds, until=until, slow=math.inf)
    rows = [
        {
            "kind": row["entrant"],
            "ms": row["ms"] / CALLS,
            "ms_by_round": {number: spent / CALLS for number, spent in row["ms_by_round"].items()},
        }
        for row in rows_of(times)
    ]
    block = {"label": size.label, "tokens": size.tokens, "dim": size.dim, "dtype": dtype_name(dtype)}
    block |= {"density": DENSITY, "rows": rows, "failures": failures}
    derive_block(block, session.result["predictions"])
    session.result.setdefault("blocks", []).append(block)
    if block["speedup"] is not None:
        print(f"  {block['speedup']:.2f}x (predicted {block['predicted']})", flush=True)


def run_part(session: SparseSession, part: VideoShape | BlockSize, until: float) -> None:
    """Measures one part."""
    if isinstance(part, VideoShape):
        measure_shape(session, part, until)
    else:
        measure_block(session, part, until)
