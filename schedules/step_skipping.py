"""Turns token steps into whole ones, for runs that cannot keep residuals per block."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .density import BUDGET_TOLERANCE


def without_partial_steps(budgets: Sequence[float], calls_per_step: Sequence[int], start: int = 0) -> list[float]:
    """Turn partial steps from `start` on into full and skipped ones, at about the same mean, at most a step above.

    For runs that cannot keep residuals per block. The first step is full, and the last if it was computed at all. What
    the last costs more is saved on all partial steps alike: saved on the first of them, these would leave a gap.
    """
    whole, last = list(budgets), len(budgets) - 1
    ends_full = whole[last] > 0.0
    partial = {i for i in range(max(start, 1), last + (not ends_full)) if 0.0 < whole[i] < 1.0}
    spent = sum(calls_per_step[i] * whole[i] for i in partial)
    of_last = calls_per_step[last] * (1.0 - whole[last]) if last > start and ends_full else 0.0
    one_step = max((calls_per_step[i] for i in partial), default=1)
    affordable = one_step * math.floor(max(0.0, spent - of_last) / one_step + BUDGET_TOLERANCE)
    # Half a step ahead: a full step stands in the middle of the partial ones whose cost it takes.
    carry = 0.5 * one_step if partial else 0.0
    for i in range(start, last + 1):
        if i == 0 or (i == last and ends_full):
            whole[i] = 1.0  # before the first there is nothing to forecast from
            continue
        share = affordable / spent if i in partial else 1.0
        carry += calls_per_step[i] * whole[i] * share
        whole[i] = 1.0 if carry >= calls_per_step[i] * (1.0 - BUDGET_TOLERANCE) else 0.0
        carry -= calls_per_step[i] * whole[i]
    return whole
