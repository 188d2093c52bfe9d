"""Cost of a step relative to a full one, counted in multiplications; nothing is measured.

K and V are computed from all tokens; everything else in a block scales with the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...limits import MIN_BUDGET


@dataclass(frozen=True)
class BlockCost:
    """Sizes of one transformer block and one call: tokens, context tokens, widths in channels."""

    tokens: int
    dim: int
    feed_forward: int
    context: int = 512

    @property
    def key_value(self) -> float:
        """Multiplications per token at any budget."""
        return 2.0 * self.dim**2

    @property
    def selected(self) -> float:
        """Multiplications per computed token: Q, output, self-attention, cross-attention, feed-forward."""
        linear = 2 * self.dim**2 + 2 * self.dim**2 + 2 * self.dim * self.feed_forward
        return float(linear + 2 * self.tokens * self.dim + 2 * self.context * self.dim)

    def relative_cost(self, budget: float) -> float:
        """Return the cost of a step at this budget relative to a full step; a skipped step costs nothing here."""
        if budget <= 0.0:
            return 0.0
        return (self.key_value + min(budget, 1.0) * self.selected) / (self.key_value + self.selected)

    def speedup(self, budgets: Sequence[float], calls_per_step: Sequence[int] | None = None) -> float:
        """Return the ideal speed-up of a run over the dense one. calls_per_step: model calls per step, default one."""
        calls_per_step = calls_per_step or [1] * len(budgets)
        spent = sum(w * self.relative_cost(b) for b, w in zip(budgets, calls_per_step, strict=True))
        return sum(calls_per_step) / spent


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
