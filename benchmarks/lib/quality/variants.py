"""Other forecasts than the pack ships, for controls of skipped steps: patches of the engine for the length of a run.

Import after the host has been started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from astraea.engine.calls import reuse
from astraea.engine.estimators import ExtrapolationGain, History, extrapolate_prediction
from astraea.engine.estimators.prediction_error import interpolation_weights
from astraea.engine.state.cond_state import CondState

Patch = tuple[Any, str, Any]


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


def _full_gain(*_: object) -> float:
    return 1.0


def _keep_three(state: CondState, sigma: float, prediction: Tensor, step: int) -> None:
    """Stands in for `CondState.push_prediction`, and keeps one prediction more."""
    older = state.history[1:] if step == state._history_step else state.history
    state.history, state._history_step = [(sigma, prediction), *older[:2]], step


def _second_order(history: History, sigma: float, gain: float | Tensor = 1.0, axis: object = None) -> Tensor:
    """The parabola through the last three predictions; a line through two."""
    if len(history) < 3:
        return extrapolate_prediction(history[:2], sigma, 1.0)
    weights = interpolation_weights(sigma, [level for level, _ in history])
    total = history[0][1] * weights[0]
    for weight, (_, value) in zip(weights[1:], history[1:], strict=True):
        total = total.add_(value, alpha=weight)
    return total


AS_SHIPPED = Variant()
LINEAR = Variant(((ExtrapolationGain, "gain", _full_gain),))
SECOND_ORDER = Variant(
    ((CondState, "push_prediction", _keep_three), (reuse, "extrapolate_prediction", _second_order)),
)
