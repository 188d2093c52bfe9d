"""Other ways to estimate and select than the pack ships, as patches of the engine for the length of a run.

They exist to be measured: what wins becomes part of the engine, what loses stays as a figure's source. Those of whole
steps are here, those of token steps in `token_variants.py`, ideas in `quality_ideas.py`. Import after the host has been
started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from astraea.engine import cond_state as branch
from astraea.engine.calls import base as call
from astraea.engine.estimators import correct, forecast

Patch = tuple[Any, str, Any]
History = Sequence[tuple[float, Tensor]]


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
SHIPPED_WEIGHTS = correct.interpolation_weights


def always(damping: float) -> Patch:
    """Forecasts go a fixed share of the way, whatever the run shows."""
    return (forecast.ExtrapolationGain, "damping", lambda *_: damping)


def keep_three(kept: branch.CondState, sigma: float, denoised: Tensor) -> None:
    """Stands in for `CondState.push_prediction`: one prediction more."""
    older = [entry for entry in kept.denoised if abs(entry[0] - sigma) > 1e-6]
    kept.denoised = [(sigma, denoised), *older[:2]]


def _second_order(history: History, sigma: float, damping: float | Tensor = 1.0, time: object = None) -> Tensor:
    """The parabola through the last three predictions; a line through two."""
    if len(history) < 3:
        return forecast.extrapolate_prediction(history[:2], sigma, 1.0)
    weights = SHIPPED_WEIGHTS(sigma, [level for level, _ in history])
    total = history[0][1] * weights[0]
    for weight, (_, value) in zip(weights[1:], history[1:], strict=True):
        total = total.add_(value, alpha=weight)
    return total


LINEAR = Variant("linear", (always(1.0),))
SECOND_ORDER = Variant(
    "forecast: second order",
    ((branch.CondState, "keep_denoised", keep_three), (call, "forecast_denoised", _second_order)),
)


def _kept_in(dtype: torch.dtype) -> Patch:
    """Predictions lose what the dtype cannot hold; they are computed with in their own as before."""
    shipped = branch.CondState.push_prediction

    def keep(kept: branch.CondState, sigma: float, denoised: Tensor) -> None:
        shipped(kept, sigma, denoised.to(dtype).to(denoised.dtype))

    return (branch.CondState, "keep_denoised", keep)


def _weights_of_a_line(sigma: float, levels: Sequence[float], _: float) -> list[float]:
    return SHIPPED_WEIGHTS(sigma, levels, 0.0)


_line = Variant("correction: along a line", ((correct, "interpolation_weights", _weights_of_a_line),))

# Ablations of whole steps. Baseline is mode `default`.
REUSE_VARIANTS = (
    Variant("damping: 0 (hold)", (always(0.0),)),
    Variant("damping: 0.25", (always(0.25),)),
    Variant("damping: 0.5", (always(0.5),)),
    Variant("damping: 1", (always(1.0),)),
    Variant("correction: none", ((call, "missed", lambda *_: None),)),
    _line,
    SECOND_ORDER,
    Variant("kept in float16", (_kept_in(torch.float16),)),
    Variant("kept in bfloat16", (_kept_in(torch.bfloat16),)),
)
