"""Corrections: a computed call returns its prediction plus the errors of the skipped calls before it.

With the weights of predictions in the latents (`engine.sampler.solver`) the latents return to where computing every
step leads, as far as the skipped predictions are known by then. Multistep solvers reuse old predictions, and with them
the correction: later calls subtract it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..estimators import SkippedStep, prediction_error
from ..sampler.solver import Solver
from ..state.cond_state import CondState
from .context import CondRows, RunContext

Errors = Callable[[Sequence[SkippedStep], Sequence[float]], "Tensor | None"]
"""errors(skipped, weights): weighted sum of skipped predictions' errors; None where it is nothing."""


def correction_for(
    context: RunContext, cond: CondRows, step: int, sigma: float, prediction: Tensor | None
) -> Tensor | None:
    """Return the tensor to add to a call's prediction for one conditioning; None where nothing is added.

    prediction: the computed one; None for a skipped call. Corrects only with weights that were read off the sampler,
    and for one of its calls that is known.
    """
    state, call, solver = cond.state, cond.sampler_call, context.profile.solver
    if call is None or solver is None or call >= solver.calls or not context.mode.corrects:
        state.reset_corrections()
        return None
    if prediction is None:
        return correct(state, solver, call, None, 0.0)
    computed = prediction

    def errors(skipped: Sequence[SkippedStep], weights: Sequence[float]) -> Tensor | None:
        return prediction_error(skipped, weights, state.history, sigma, computed, context.axes)

    is_last = call == solver.calls - 1 and context.profile.ends_at(step)
    return correct(state, solver, call, errors, context.final_step_gain if is_last else 0.0)


def correct(
    state: CondState, solver: Solver, call: int, errors: Errors | None, final_step_gain: float
) -> Tensor | None:
    """Return what the prediction of a call lacks for the latents after it to be as if all before had been right.

    errors: for a computed call, which makes the skipped ones before it known; None for a skipped call.
    final_step_gain: response of its prediction to the latents' error; above 0 at a run's last call only, as no later
    one corrects that.
    """
    skipped: list[SkippedStep] = []
    if errors is not None:
        skipped, state.skipped = state.skipped, []
    own = solver.cumulative_weight(call, call)
    lacking = errors(skipped, _error_weights(skipped, solver, call, final_step_gain * own)) if errors else None
    for older, correction in state.pending_corrections.items():
        lacking = _add(lacking, correction, -solver.memory_weight(older, call))
    if state.latent_error is not None:
        lacking = _add(lacking, state.latent_error, solver.latent_weight(call))
    own_correction = None
    if lacking is not None and solver.can_correct(call):
        own_correction, lacking = lacking / own, None
    state.latent_error = lacking
    if solver.memory:
        _keep_pending(state, solver, call, own_correction, skipped, errors)
    return own_correction


def _error_weights(skipped: Sequence[SkippedStep], solver: Solver, call: int, response: float) -> list[float]:
    """Return the weight of each skipped prediction's error in the latents after `call`."""
    weights = [solver.cumulative_weight(step.call, call) for step in skipped]
    if response:
        inputs = (solver.input_weight(step.call, call) for step in skipped)
        weights = [weight + response * entering for weight, entering in zip(weights, inputs, strict=True)]
    return weights


def _keep_pending(
    state: CondState,
    solver: Solver,
    call: int,
    correction: Tensor | None,
    skipped: Sequence[SkippedStep],
    errors: Errors | None,
) -> None:
    """Keep what the solver will use again: corrections, and errors of skipped predictions."""
    pending = dict(state.pending_corrections)
    if correction is not None:
        pending[call] = correction
    for step in skipped:
        recent = step.call > call - solver.memory
        affected = [(step.call, 1.0)] if recent else solver.equivalent_errors(step.call, call)
        error = errors([step], [1.0]) if affected and errors is not None else None
        if error is not None:
            for newer, factor in affected:
                pending[newer] = _sum(pending.get(newer), error, -factor)
    for older in [older for older in pending if older <= call - solver.memory]:
        outdated = pending.pop(older)
        for newer, factor in solver.equivalent_errors(older, call):
            pending[newer] = _sum(pending.get(newer), outdated, factor)
    state.pending_corrections = pending


def _add(total: Tensor | None, term: Tensor, factor: float) -> Tensor | None:
    """Return total + factor · term, changing the total in place; None while nothing has been added."""
    if not factor:
        return total
    return term * factor if total is None else total.add_(term, alpha=factor)


def _sum(total: Tensor | None, term: Tensor, factor: float) -> Tensor:
    """Return total + factor · term in a new tensor: the total may be in use elsewhere."""
    return term * factor if total is None else total + term * factor
