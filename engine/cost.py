"""What a step costs relative to a full one, counted in multiplications; no measurement is involved.

With K and V made from all tokens, everything in a block but their two projections scales with the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockCost:
    """Sizes of one transformer block and one call: N tokens, L context tokens, widths in channels."""

    tokens: int
    dim: int
    feed_forward: int
    context: int = 512

    @property
    def key_value(self) -> float:
        """Multiplications per token that are paid whatever the budget."""
        return 2.0 * self.dim**2

    @property
    def selected(self) -> float:
        """Multiplications per computed token: Q, output, self-attention, cross-attention, feed-forward."""
        linear = 2 * self.dim**2 + 2 * self.dim**2 + 2 * self.dim * self.feed_forward
        return float(linear + 2 * self.tokens * self.dim + 2 * self.context * self.dim)

    def share(self, budget: float) -> float:
        """Cost of a step at this budget as a share of a full step; a reuse step costs nothing here."""
        if budget <= 0.0:
            return 0.0
        return (self.key_value + min(budget, 1.0) * self.selected) / (self.key_value + self.selected)

    def speedup(self, budgets: Sequence[float], weights: Sequence[int] | None = None) -> float:
        """Ideal speed-up of a whole run over the dense one."""
        weights = weights or [1] * len(budgets)
        spent = sum(w * self.share(b) for b, w in zip(budgets, weights, strict=True))
        return sum(weights) / spent


def budget_for_speedup(
    target: float, cost: BlockCost, budgets_at: Callable[[float], list[float]], weights: Sequence[int] | None = None
) -> float:
    """The largest mean budget whose run reaches the target speed-up by the cost model (or the least allowed)."""
    low, high = 0.1, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if cost.speedup(budgets_at(middle), weights) >= target:
            low = middle
        else:
            high = middle
    return low
