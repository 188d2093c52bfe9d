"""Other forecasts than the pack ships, for controls of skipped steps: patches of the engine for the length of a run.

Import after the host has been started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from astraea.engine import branch, call
from astraea.engine.estimators import correct, forecast

Patch = tuple[Any, str, Any]
History = Sequence[tuple[float, Tensor]]


@dataclass(frozen=True)
class Variant:
    """A change to the engine: attributes of its modules and classes that are replaced while a run lasts."""

    patches: Sequence[Patch] = ()

    @contextmanager
    def applied(self) -> Iterator[None]:
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in self.patches]
        try:
            for owner, name, value in self.patches:
                setattr(owner, name, value)
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)


def _undamped(*_: object) -> float:
    return 1.0


def _keep_three(kept: branch.Branch, sigma: float, denoised: Tensor, step: int) -> None:
    """Stands in for `Branch.keep_denoised`, and keeps one prediction more."""
    older = kept.denoised[1:] if step == kept.newest_step else kept.denoised
    kept.denoised, kept.newest_step = [(sigma, denoised), *older[:2]], step


def _second_order(history: History, sigma: float, damping: float | Tensor = 1.0, time: object = None) -> Tensor:
    """The parabola through the last three predictions; a line through two."""
    if len(history) < 3:
        return forecast.forecast_denoised(history[:2], sigma, 1.0)
    weights = correct.interpolation_weights(sigma, [level for level, _ in history])
    total = history[0][1] * weights[0]
    for weight, (_, value) in zip(weights[1:], history[1:], strict=True):
        total = total.add_(value, alpha=weight)
    return total


AS_SHIPPED = Variant()
LINEAR = Variant(((forecast.Trial, "damping", _undamped),))
SECOND_ORDER = Variant(
    ((branch.Branch, "keep_denoised", _keep_three), (call, "forecast_denoised", _second_order)),
)
