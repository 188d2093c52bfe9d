"""Weights of past predictions in a sampler's latents: what is needed to correct a prediction after the fact.

All solvers of the host are linear in the predictions: the latents that a model call begins with are a weighted sum of
the predictions returned by the calls before it and of what the run began with. Euler's weights follow from the noise
levels; multistep solvers use old predictions again, and some call the model several times a step. `Solver.of_responses`
reads the weights of any of them off runs on impulses, call by call.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

MAX_MEMORY = 4
NEGLIGIBLE = 1e-3  # of the weight of the newest prediction; rounding stays below
MAX_MISFIT = 0.1  # likewise, of what is left out where a solver remembers more than `MAX_MEMORY` predictions
MIN_CARRYING = 0.3  # own weight over the largest of a row below which a call cannot take a correction
HORIZON = 8  # calls ahead within which the state of a solver shows


class Solver:
    """Weights of predictions in the latents, by model call.

    The latents that call c begins with are `weights[c] · predictions + starts[c] · beginning`, row C is the result.

    memory: predictions that the solver uses again after the latents that they went into. An error that was made good
    in the latents lives on in these; `folds` says which errors of newer ones an older one amounts to.
    """

    def __init__(self, weights: Tensor, starts: Tensor, memory: int, folds: Sequence[dict[int, list[float]]]):
        """weights `[C + 1, C]`, starts `[C + 1]`, both fp64; folds: by call, see `fold`."""
        self.calls, self.memory, self._folds = weights.shape[1], memory, folds
        self._weights: list[list[float]] = weights.tolist()
        self.starts: tuple[float, ...] = tuple(starts.tolist())
        carried = torch.where(starts[:-1].abs() > 1e-9, starts[1:] / starts[:-1], torch.zeros_like(starts[1:]))
        self._carried: list[float] = carried.tolist()
        used = weights[1:] - carried.unsqueeze(1) * weights[:-1]
        scale = weights[1:].abs().amax(1, keepdim=True)
        self._used: list[list[float]] = torch.where(used.abs() > NEGLIGIBLE * scale, used, 0.0).tolist()
        own = weights[1:].diagonal().abs()
        self._carries: list[bool] = (own > MIN_CARRYING * scale[:, 0]).tolist()

    def weight(self, older: int, call: int) -> float:
        """Weight of prediction `older` in the latents after `call`."""
        return self._weights[call + 1][older]

    def enters(self, older: int, call: int) -> float:
        """Weight of prediction `older` in the latents that `call` begins with."""
        return self._weights[call][older]

    def share(self, older: int, call: int) -> float:
        """How much of prediction `call` makes up for an error of 1 in `older`, by the latents after `call`."""
        own = self._weights[call + 1][call]
        return self._weights[call + 1][older] / own if own else 0.0

    def used(self, older: int, call: int) -> float:
        """The part of `weight` that is due to `call` using prediction `older` itself, and not the latents before."""
        return self._used[call][older]

    def carried(self, call: int) -> float:
        """How much of an error of the latents that `call` begins with is left after it."""
        return self._carried[call]

    def carries(self, call: int) -> bool:
        """Whether the prediction of `call` weighs enough to take a correction; if not, a later one does."""
        return self._carries[call]

    @property
    def responses(self) -> tuple[tuple[float, ...], ...]:
        """The weights in the latents after each call, `[C, C]`."""
        return tuple(map(tuple, self._weights[1:]))

    @property
    def all_carry(self) -> bool:
        return all(self._carries)

    def fold(self, older: int, call: int) -> list[tuple[int, float]]:
        """Errors of the newest `memory` predictions, `call` the last, that an error of 1 in `older` amounts to later.

        As `(call, error)`; what acts through the latents alone is not part of it.
        """
        kept = self._folds[call].get(older, [])
        return [(call - self.memory + 1 + n, factor) for n, factor in enumerate(kept) if factor]

    @staticmethod
    def of_levels(sigmas: Sequence[float]) -> Solver:
        """Euler's method, and in effect any that uses each prediction for its own step only; one call a step.

        d(x/σ) = x₀ d(1/σ) along the path, so each counts by its step of 1/σ. After a last step to 0 none but the last.
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
    def of_responses(responses: Sequence[Sequence[float]], starts: Sequence[float]) -> Solver | None:
        """From the latents that the C calls begin with and those at the end, C + 1 of each.

        responses[c][n]: those of a run from 0 in which prediction n is 1 and all others are 0; starts[c]: those of a
        run from 1 in which all are 0. None where no prediction counts, or more are used again than can be kept.
        """
        weights = torch.tensor([list(row) for row in responses], dtype=torch.float64)
        begun = torch.tensor(list(starts), dtype=torch.float64)
        if weights.ndim != 2 or not weights.isfinite().all() or not begun.isfinite().all():
            return None
        if not (weights.abs().amax() > 0.0 and begun[0].abs() > 0.0):
            return None
        for memory in range(MAX_MEMORY + 1):
            folds = [_folds(weights, begun, call, memory) for call in range(weights.shape[1])]
            misfit = max((left for _, left in folds), default=0.0)
            if misfit <= NEGLIGIBLE or (memory == MAX_MEMORY and misfit <= MAX_MISFIT):
                return Solver(weights, begun, memory, [found for found, _ in folds])
        return None


def _folds(weights: Tensor, starts: Tensor, call: int, memory: int) -> tuple[dict[int, list[float]], float]:
    """`Solver.fold` for one call, and how much of what the calls ahead use again it leaves out, in their own weight."""
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
    factors = torch.linalg.lstsq(kept, older, driver="gelsd").solution  # the least errors that amount to it
    left = float((older - kept @ factors).abs().max())
    relevant = older.abs().amax(0) > NEGLIGIBLE
    padding = [0.0] * (memory - kept.shape[1])
    found = {n: padding + factors[:, n].tolist() for n in range(first) if relevant[n]}
    return found, left
