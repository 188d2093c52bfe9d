"""Corrections of skipped predictions, made at the next computed call.

The latents are a weighted sum of predictions (`engine.sampler.solver`). A computed call shows the errors of the skipped
predictions before it. Their weighted sum, over the weight of the call's own prediction, is added to that prediction:
then the latents lack nothing. Multistep solvers use old predictions again, so later calls take the addition back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from .estimators import SkippedStep
from .sampler.solver import Solver

Errors = Callable[[Sequence[SkippedStep], Sequence[float]], "Tensor | None"]
"""errors(skipped, weights): weighted sum of right minus forecast predictions; None if there is nothing to add."""


class Corrections:
    """Errors of one conditioning that are not corrected yet."""

    def __init__(self) -> None:
        self.skipped: list[SkippedStep] = []  # since the newest computed call
        self._pending: dict[int, Tensor] = {}  # by call: used minus right prediction, while the solver uses it again
        self._latent_error: Tensor | None = None  # right minus used latents, where the newest call could not correct it

    def tensors(self) -> Iterator[Tensor]:
        yield from self._pending.values()
        if self._latent_error is not None:
            yield self._latent_error

    def reset(self) -> None:
        """Forget all errors: after a call of unknown weight, what the latents lack is unknown, too."""
        self.skipped, self._pending, self._latent_error = [], {}, None

    def add_skipped(self, step: SkippedStep) -> None:
        """Note a skipped call; the next computed call shows the error of its prediction."""
        self.skipped.append(step)

    def after_skipped(self, solver: Solver, call: int) -> Tensor | None:
        """Return the tensor to add to the forecast of a skipped call; None where nothing is added."""
        return self._correct(solver, call, [], None)

    def after_computed(self, solver: Solver, call: int, errors: Errors | None) -> Tensor | None:
        """Return the tensor to add to the prediction of a computed call; None where nothing is added.

        With it the latents after the call are as if all predictions before had been right. errors: None where the call
        tells nothing of the skipped ones.
        """
        skipped, self.skipped = self.skipped, []
        if errors is None:
            return self._correct(solver, call, [], None)
        lacking = errors(skipped, [solver.cumulative_weight(step.call, call) for step in skipped])
        return self._correct(solver, call, [(step, errors) for step in skipped], lacking)

    def _correct(
        self, solver: Solver, call: int, skipped: Sequence[tuple[SkippedStep, Errors]], lacking: Tensor | None
    ) -> Tensor | None:
        """Return the correction of a call: what the latents after it lack, over the call's own weight in them.

        They lack the argument `lacking` (by skipped calls) − Σ memory weight · pending + latent weight · latent error.
        A call of too small a weight is not corrected: what the latents lack is the latent error at the next call.
        """
        for older, pending in self._pending.items():
            lacking = _add(lacking, pending, -solver.memory_weight(older, call))
        if self._latent_error is not None:
            lacking = _add(lacking, self._latent_error, solver.latent_weight(call))
        correction = None
        if lacking is not None and solver.can_correct(call):
            correction, lacking = lacking / solver.cumulative_weight(call, call), None
        self._latent_error = lacking
        if solver.memory:
            self._keep_pending(solver, call, correction, skipped)
        return correction

    def _keep_pending(
        self, solver: Solver, call: int, correction: Tensor | None, skipped: Sequence[tuple[SkippedStep, Errors]]
    ) -> None:
        """Update `_pending`, the used minus the right prediction of each call that the solver may use again.

        That is +correction for a corrected prediction, −error for a skipped one. The solver uses the newest `memory`
        predictions: an older one is replaced by equivalent errors of these, which change later latents as it would.
        """
        pending = dict(self._pending)
        if correction is not None:
            pending[call] = correction
        for step, errors in skipped:
            recent = step.call > call - solver.memory
            affected = [(step.call, 1.0)] if recent else solver.equivalent_errors(step.call, call)
            error = errors([step], [1.0]) if affected else None
            if error is not None:
                for newer, factor in affected:
                    pending[newer] = _sum(pending.get(newer), error, -factor)
        for older in [older for older in pending if older <= call - solver.memory]:
            outdated = pending.pop(older)
            for newer, factor in solver.equivalent_errors(older, call):
                pending[newer] = _sum(pending.get(newer), outdated, factor)
        self._pending = pending


def _add(total: Tensor | None, term: Tensor, factor: float) -> Tensor | None:
    """Return total + factor · term, changing the total in place; None while nothing has been added."""
    if not factor:
        return total
    return term * factor if total is None else total.add_(term, alpha=factor)


def _sum(total: Tensor | None, term: Tensor, factor: float) -> Tensor:
    """Return total + factor · term in a new tensor: the total may be in use elsewhere."""
    return term * factor if total is None else total + term * factor
