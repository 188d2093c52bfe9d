"""A skipped step: the model does not run, its prediction is estimated from those of earlier steps."""

from __future__ import annotations

import torch
from torch import Tensor

from ..estimators import SkippedStep, forecast_prediction, hold_prediction
from ..report import REUSE
from .base import ModelCall
from .context import CallInfo, CondRows, RunContext


class ReuseCall(ModelCall):
    """Estimates a prediction."""

    kind = REUSE

    def __init__(self, context: RunContext, info: CallInfo):
        super().__init__(context, info, tokens=0)

    def estimate(self) -> Tensor:
        """Return the estimated prediction, the denoised latents `[B, …]`, a new tensor."""
        return torch.cat([self._estimate(cond) for cond in self.info.conds])  # `cat` copies even a single tensor

    def _estimate(self, cond: CondRows) -> Tensor:
        context, mode, sigma, history = self.context, self.context.mode, self.info.sigma, cond.state.history
        if not mode.forecasts or (mode.corrects and context.profile.solver is None):
            return hold_prediction(history)
        estimate = forecast_prediction(context.prior, history, sigma)
        if not mode.corrects:
            return estimate
        known = self._known_call(cond)
        if known is None:
            return estimate
        solver, call = known
        cond.state.corrections.add_skipped(SkippedStep(call, sigma))
        correction = cond.state.corrections.after_skipped(solver, call)
        return estimate if correction is None else estimate + correction.to(estimate.dtype)

    def end(self, prediction: Tensor) -> Tensor:
        return prediction
