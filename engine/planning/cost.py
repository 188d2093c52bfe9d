"""Cost of a step relative to a full one, counted in multiplications; nothing is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...limits import MIN_BUDGET


@dataclass(frozen=True)
class BlockCost:
    """Multiplications of an average block, per token of the call.

    always: at any budget, such as keys and values; selected: where a token is computed; others: share of tokens that
    are computed at any budget, as they are not the video's (text, audio).
    """

    always: float
    selected: float
    others: float = 0.0

    @classmethod
    def of(
        cls,
        tokens: int,
        dim: int,
        feed_forward: int,
        context: int = 512,
        *,
        inner: int | None = None,
        matrices: int = 2,
        fused: int = 0,
        others: int = 0,
    ) -> BlockCost:
        """Count a transformer block.

        tokens: that attention sees; dim, feed_forward: widths in channels; context: text tokens of the
        cross-attention, 0 without one; inner: width of all heads, default dim; matrices: of the feed-forward, 3 where
        it is gated; fused: output channels that a joint projection computes for every token besides keys and values;
        others: tokens that are not the video's.
        """
        inner = dim if inner is None else inner
        cross = 2 * dim * inner + 2 * context * inner if context else 0
        linear = 2 * dim * inner + matrices * dim * feed_forward - fused * dim
        return cls(
            always=float(2 * dim * inner + fused * dim),
            selected=float(linear + 2 * tokens * inner + cross),
            others=others / max(tokens, 1),
        )

    @classmethod
    def mean(cls, counted: Sequence[tuple[int, BlockCost]]) -> BlockCost:
        """Return the mean of several kinds of blocks, `(number of blocks, cost)`, that see the same tokens."""
        blocks = sum(count for count, _ in counted)
        return cls(
            always=sum(count * cost.always for count, cost in counted) / blocks,
            selected=sum(count * cost.selected for count, cost in counted) / blocks,
            others=counted[0][1].others,
        )

    def relative_cost(self, budget: float) -> float:
        """Return the cost of a step at this budget relative to a full step; a skipped step costs nothing here."""
        if budget <= 0.0:
            return 0.0
        computed = self.others + (1.0 - self.others) * min(budget, 1.0)
        return (self.always + computed * self.selected) / (self.always + self.selected)

    def speedup(self, budgets: Sequence[float], calls_per_step: Sequence[int] | None = None) -> float:
        """Return the ideal speed-up of a run over the dense one. calls_per_step: model calls per step, default one."""
        calls_per_step = calls_per_step or [1] * len(budgets)
        spent = sum(w * self.relative_cost(b) for b, w in zip(budgets, calls_per_step, strict=True))
        return sum(calls_per_step) / spent


WHOLE_STEPS = BlockCost(always=1.0, selected=0.0)  # a model of which only its calls are known: a call costs a call


def budget_for_speedup(
    target: float,
    cost: BlockCost,
    budgets_at: Callable[[float], list[float]],
    calls_per_step: Sequence[int] | None = None,
) -> float:
    """Return the largest mean budget whose run reaches the target speed-up by the cost model, at least MIN_BUDGET.

    budgets_at: budgets per step for a mean budget; calls_per_step: model calls per step.
    """
    low, high = MIN_BUDGET, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if cost.speedup(budgets_at(middle), calls_per_step) >= target:
            low = middle
        else:
            high = middle
    return low
