"""One attention call that can be sparse: how it is computed, chosen for, and timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ...kernels import FAST, Problem, attend, comfy_kitchen
from ...kernels.key_tiles import KEY_TILE, QUERY_TILE
from ...kernels.race import Timing, race
from .allocation import LayerAllocation
from .call import TileCall
from .candidates import CANDIDATES, ROUTED, HeadChoice, TileProblem
from .layout import QueryParts
from .methods import METHODS
from .plan import MEAN, SparsePlan
from .probe import sampled_rows

Dense = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AttentionCall:
    """One call: q `[B, M, H, D]`, k and v `[B, N, H, D]`.

    dense: the attention that the call would have otherwise, of `(q, k, v)`; it computes rows that are not the video's,
    and is what times are compared with. selected: with M < N, the video's rows among the queries, as keys, int64
    `[B, M]`, ascending; None: unknown. is_masked: some keys do not count for some queries; dense_name: of `dense`, by
    which times are saved.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    dense: Dense
    selected: Tensor | None = None
    is_masked: bool = False
    dense_name: str = ""


@dataclass(frozen=True)
class SparseWork:
    """A call with its tiles. parts: its query rows by how they are computed."""

    plan: SparsePlan
    call: AttentionCall
    parts: QueryParts
    tiled: TileCall

    def problem(self) -> TileProblem:
        """Return the tensors of the sparse rows; what a problem computes once lasts as long as it does."""
        call = self.call
        return TileProblem(self.tiled, call.q[:, self.parts.sparse], call.k, call.v, call.scale)

    def compute(self, choice: HeadChoice) -> Tensor:
        """Return the output of all rows `[B, M, H, D]`."""
        problem, call = self.problem(), self.call
        tiles = problem.key_tiles(choice, self.plan.rest == MEAN)
        out, _ = attend(problem.q, call.k, call.v, scale=call.scale, key_tiles=tiles, preference=FAST)
        return self.parts.join(out, call.q, lambda rest: call.dense(rest, call.k, call.v))

    def core_refusal(self) -> str:
        """Return why comfy-kitchen's kernel cannot compute the call; "" if it can."""
        rows = self.tiled.layout
        return comfy_kitchen.unsupported_reason(self.call.q, self.call.k, rows.before, rows.after)

    def compute_by_core(self) -> Tensor:
        """Return the output by comfy-kitchen's kernel, which selects by itself."""
        rows, call = self.tiled.layout, self.call
        at = {"before": rows.before, "after": rows.after}
        return comfy_kitchen.attend(call.q, call.k, call.v, scale=call.scale, density=self.plan.density, **at)

    def choose(self, seed: int, allocation: LayerAllocation | None) -> HeadChoice:
        """Return the choice of the heads by the plan's method."""
        problem = self.problem()
        sampled = sampled_rows(self.tiled.query_count, seed, problem.q.device)
        return METHODS[self.plan.choice](problem, sampled, self.plan, allocation)

    def time(self, every: int) -> Timing:
        """Return how long such calls take, sparse and dense, timed once on a device.

        Timed with lists that cost the most to make, at the same density for all heads, and with its part of a choice,
        of which there is one in `every` calls.
        """
        problem = self.problem()
        usual = self.tiled.query_tile == QUERY_TILE and self.tiled.key_tile == KEY_TILE
        described = Problem.of(problem.q, problem.k, problem.v, key_tiles=True)
        described = replace(described, usual_tiles=usual, rest=self.plan.rest == MEAN)
        routed = [each for each in CANDIDATES if each.kind == ROUTED and each.order in self.tiled.orders.names]
        choice = HeadChoice.same(routed[-1], self.plan.density, problem.heads)
        return race(
            described,
            self.plan.density,
            sparse=lambda: self.compute(choice),
            dense=lambda: self.call.dense(self.call.q, self.call.k, self.call.v),
            name=self.call.dense_name,
            now_and_then=(lambda: self.choose(0, None), every),
        )

    def density_of(self, choice: HeadChoice) -> float:
        """Return the mean share of key tiles that the sparse rows attend to."""
        shares = self.tiled.shares(choice.densities)
        return float(shares.mean())

    def share_of(self, choice: HeadChoice) -> tuple[float, float]:
        """Return the pairs of tiles and heads that are computed, rows of other kinds included, and all of them."""
        others = -(-(self.parts.before + self.parts.after) // self.tiled.query_tile)
        heads, keys = len(choice.densities), self.tiled.key_tiles
        computed = self.tiled.query_tiles * sum(self.tiled.count(density) for density in choice.densities)
        return computed + others * keys * heads, (self.tiled.query_tiles + others) * keys * heads
