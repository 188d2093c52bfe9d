"""Other ways to estimate and select than the pack ships, as patches of the engine for the length of a run.

They exist to be measured: what wins becomes part of the engine, what loses stays here as a figure's source. Import
after the host has been started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from astraea.engine import branch, call, selection
from astraea.engine.estimators import correct, forecast, refit

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Variant:
    """A change to the engine: attributes of its modules and classes that are replaced while a run lasts."""

    name: str
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


AS_SHIPPED = Variant("")


def always(damping: float) -> Patch:
    """Forecasts go a fixed share of the way, whatever the run shows."""
    return (forecast.Trial, "damping", lambda trial, like: damping)


def _keep_three(kept: Any, sigma: float, denoised: Tensor) -> None:
    older = [entry for entry in kept.denoised if abs(entry[0] - sigma) > 1e-6]
    kept.denoised = [(sigma, denoised), *older[:2]]


def _second_order(history: Sequence[tuple[float, Tensor]], sigma: float, damping: float | Tensor = 1.0) -> Tensor:
    """The parabola through the last three predictions; a line through two."""
    if len(history) < 3:
        return forecast.forecast_denoised(history[:2], sigma, 1.0)
    weights = correct.interpolation_weights(sigma, [level for level, _ in history])
    total = history[0][1] * weights[0]
    for weight, (_, value) in zip(weights[1:], history[1:], strict=True):
        total = total.add_(value, alpha=weight)
    return total


LINEAR = Variant("linear", (always(1.0),))
SECOND_ORDER = Variant(
    "second order", ((branch.Branch, "keep_denoised", _keep_three), (call, "forecast_denoised", _second_order))
)


def _largest_change(x: Tensor, reference: Tensor) -> Tensor:
    return (x - reference).float().abs().amax(-1)


def _mean_change(x: Tensor, reference: Tensor) -> Tensor:
    return (x - reference).float().abs().mean(-1)


def _relative_change(x: Tensor, reference: Tensor) -> Tensor:
    size = reference.float().square().mean(-1).sqrt()
    return selection.rms_change(x, reference) / size.clamp_min(1e-6)


def _mean_drift(kept_fresh: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets only."""
    offset = (fresh.float() - kept_fresh.float()).mean(1, keepdim=True)
    return offset.new_ones(offset.shape), offset


# Ablations of token steps: name to variant. Baseline is mode `default`.
TOKEN_VARIANTS = (
    Variant("change: mean absolute", ((call, "rms_change", _mean_change),)),
    Variant("change: largest channel", ((call, "rms_change", _largest_change),)),
    Variant("change: relative", ((call, "rms_change", _relative_change),)),
    Variant("age: none", ((selection, "AGE_WEIGHT", 0.0),)),
    Variant("age: 0.05", ((selection, "AGE_WEIGHT", 0.05),)),
    Variant("age: 0.3", ((selection, "AGE_WEIGHT", 0.3),)),
    Variant("age: 1", ((selection, "AGE_WEIGHT", 1.0),)),
    Variant("ridge: 0", ((refit, "RIDGE_TOKENS", 0.0),)),
    Variant("ridge: 16", ((refit, "RIDGE_TOKENS", 16.0),)),
    Variant("ridge: 64", ((refit, "RIDGE_TOKENS", 64.0),)),
    Variant("slope: 0.8...1.25", ((refit, "LEAST_SLOPE", 0.8), (refit, "MOST_SLOPE", 1.25))),
    Variant("slope: unclamped", ((refit, "LEAST_SLOPE", -1e9), (refit, "MOST_SLOPE", 1e9))),
    Variant("statistics: offset only", ((refit, "drift_of", _mean_drift),)),
    Variant("weight: at most 1", ((refit, "MOST_WEIGHT", 1.0),)),
    Variant("weight: at most 3", ((refit, "MOST_WEIGHT", 3.0),)),
)

# Ablations of whole steps. Baseline is mode `default`.
REUSE_VARIANTS = (
    Variant("damping: 0 (hold)", (always(0.0),)),
    Variant("damping: 0.25", (always(0.25),)),
    Variant("damping: 0.5", (always(0.5),)),
    Variant("damping: 1", (always(1.0),)),
)
