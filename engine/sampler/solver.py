"""Weights of past predictions in a sampler's latents. Needed to correct skipped predictions after the fact.

All solvers of the host are linear in the predictions: the latents at the start of a model call are a weighted sum of
the predictions of the calls before it and of the run's first latents. Euler's weights follow from the noise levels;
multistep solvers use old predictions again, and some call the model several times a step. Their weights are read off
runs in which one prediction is 1 and all others are 0 (`Solver.from_impulse_response`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

MAX_MEMORY = 4
# As shares of the largest weight in the same latents:
NEGLIGIBLE = 1e-3  # weights that count as 0; rounding stays below
MAX_MISFIT = 0.1  # weights that may be left unexplained where a solver uses more than MAX_MEMORY predictions again
MIN_OWN_WEIGHT = 0.3  # the least weight of a prediction that can take a correction
MAX_OWN_WEIGHT = 10.0  # not as a share: what a prediction repeats of an error in its latents comes back so many times
HORIZON = 8  # later calls whose weights tell which old predictions a solver uses again


class Solver:
    """The weights that a sampler gives to the C predictions of a run in its latents; it computes no latents itself.

    The latents before call c are `weights[c] · predictions + starts[c] · first latents`; row C is the result.

    memory: number of newest predictions that the solver keeps to use again (Euler: 0). An error that was corrected in
    the latents is still in these.
    """

    def __init__(self, weights: Tensor, starts: Tensor, memory: int, equivalents: Sequence[dict[int, list[float]]]):
        """weights `[C + 1, C]`, starts `[C + 1]`, both fp64; equivalents: by call, see `equivalent_errors`."""
        self.calls, self.memory, self._equivalents = weights.shape[1], memory, equivalents
        self._weights: list[list[float]] = weights.tolist()
        self.starts: tuple[float, ...] = tuple(starts.tolist())
        latent = torch.where(starts[:-1].abs() > 1e-9, starts[1:] / starts[:-1], torch.zeros_like(starts[1:]))
        self._latent_weights: list[float] = latent.tolist()
        used = weights[1:] - latent.unsqueeze(1) * weights[:-1]
        scale = weights[1:].abs().amax(1, keepdim=True)
        self._memory_weights: list[list[float]] = torch.where(used.abs() > NEGLIGIBLE * scale, used, 0.0).tolist()
        own = weights[1:].diagonal().abs()
        self._is_steep: list[bool] = (own > MAX_OWN_WEIGHT).tolist()
        self._can_correct: list[bool] = (own > MIN_OWN_WEIGHT * scale[:, 0]).tolist()

    def cumulative_weight(self, older: int, call: int) -> float:
        """Weight of prediction `older` in the latents after `call`, in total: by its own step and by later ones."""
        return self._weights[call + 1][older]

    def input_weight(self, older: int, call: int) -> float:
        """Weight of prediction `older` in the latents before `call`."""
        return self._weights[call][older]

    def memory_weight(self, older: int, call: int) -> float:
        """Part of `cumulative_weight` that `call` adds by using prediction `older` again, besides the latents."""
        return self._memory_weights[call][older]

    def latent_weight(self, call: int) -> float:
        """Share of an error in the latents before `call` that is left in the latents after it."""
        return self._latent_weights[call]

    def can_correct(self, call: int) -> bool:
        """Tell whether the prediction of `call` weighs enough to take a correction; if not, a later one does."""
        return self._can_correct[call]

    def is_steep(self, call: int) -> bool:
        """Tell whether the latents after `call` are a large difference of its prediction and earlier latents.

        So with Heun's method, where a step falls to a small part of its noise level. A prediction follows its latents,
        errors and all, which the weights do not tell: there what is lacking cannot be known, let alone corrected.
        """
        return self._is_steep[call]

    @property
    def weights_after(self) -> tuple[tuple[float, ...], ...]:
        """Weights of the predictions in the latents after each call, `[C, C]`."""
        return tuple(map(tuple, self._weights[1:]))

    @property
    def all_can_correct(self) -> bool:
        return all(self._can_correct)

    def equivalent_errors(self, older: int, call: int) -> list[tuple[int, float]]:
        """Return errors of the newest `memory` predictions, up to `call`, that act as an error of 1 in `older` does.

        As `(call, error)`. Both change later latents alike where the solver uses the predictions again; effects through
        the latents after `call` are not counted.
        """
        errors = self._equivalents[call].get(older, [])
        return [(call - self.memory + 1 + n, factor) for n, factor in enumerate(errors) if factor]

    @staticmethod
    def from_sigmas(sigmas: Sequence[float]) -> Solver:
        """Return the weights of Euler's method, and of any that uses each prediction x₀ for its own step only.

        Along the path d(x/σ) = x₀ d(1/σ), so a step from σ to σ′ gives σ′/σ · x + (1 − σ′/σ) · x₀.
        """
        steps = max(0, len(sigmas) - 1)
        weights = torch.zeros(steps + 1, steps, dtype=torch.float64)
        starts = torch.zeros(steps + 1, dtype=torch.float64)
        starts[0] = 1.0
        for k, (sigma, following) in enumerate(pairwise(sigmas)):
            ratio = following / sigma if sigma > 0.0 else 1.0
            ratio = ratio if following < sigma else 1.0
            weights[k + 1] = weights[k] * ratio
            weights[k + 1, k] = 1.0 - ratio
            starts[k + 1] = starts[k] * ratio
        return Solver(weights, starts, 0, [{}] * steps)

    @staticmethod
    def from_impulse_response(responses: Sequence[Sequence[float]], starts: Sequence[float]) -> Solver | None:
        """Return the solver whose latents before each of the C calls, and at the end, are these.

        responses[c][n]: latents of a run from 0 in which prediction n is 1 and all others are 0; starts[c]: latents of
        a run from 1 in which all are 0. None where no prediction counts, or more than MAX_MEMORY are used again.
        """
        weights = torch.tensor([list(row) for row in responses], dtype=torch.float64)
        initial = torch.tensor(list(starts), dtype=torch.float64)
        if weights.ndim != 2 or not weights.isfinite().all() or not initial.isfinite().all():
            return None
        if not (weights.abs().amax() > 0.0 and initial[0].abs() > 0.0):
            return None
        for memory in range(MAX_MEMORY + 1):
            found = [_equivalents(weights, initial, call, memory) for call in range(weights.shape[1])]
            misfit = max((left for _, left in found), default=0.0)
            if misfit <= NEGLIGIBLE or (memory == MAX_MEMORY and misfit <= MAX_MISFIT):
                return Solver(weights, initial, memory, [errors for errors, _ in found])
        return None


def _equivalents(weights: Tensor, starts: Tensor, call: int, memory: int) -> tuple[dict[int, list[float]], float]:
    """Return the errors for `Solver.equivalent_errors` of one call, by older prediction; and their largest misfit.

    Rows of `again` are later latents: the weights of the predictions up to `call` in them, without the part that passes
    through the latents after `call`, over the row's largest weight. Each older column is fitted by the newest `memory`.
    """
    after = slice(call + 2, call + 2 + HORIZON)
    rows, known = weights[after], call + 1
    if not len(rows) or known <= 0:
        return {}, 0.0
    begin = starts[call + 1]
    ratio = starts[after] / begin if begin.abs() > 1e-9 else torch.zeros_like(starts[after])
    again = rows[:, :known] - ratio.unsqueeze(1) * weights[call + 1, :known]
    scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12)
    again = again / scale
    first = max(0, known - memory)
    older, kept = again[:, :first], again[:, first:]
    if not first:
        return {}, 0.0
    if not kept.shape[1]:
        return {}, float(older.abs().max())
    factors = torch.linalg.lstsq(kept, older, driver="gelsd").solution  # the least errors of the same effect
    left = float((older - kept @ factors).abs().max())
    relevant = older.abs().amax(0) > NEGLIGIBLE
    padding = [0.0] * (memory - kept.shape[1])
    found = {n: padding + factors[:, n].tolist() for n in range(first) if relevant[n]}
    return found, left
