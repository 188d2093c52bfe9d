"""How a sampler's solver uses the predictions it is told, as far as making good what was told wrong needs to know.

All solvers of the host are linear in the predictions: the latents after step k are a weighted sum of what was told at
steps 0…k and of what the run began with. Euler's weights follow from the noise levels; multistep solvers also use older
predictions again, against which a correction that ignores it would work. `Solver.of_responses` reads the weights off a
run on impulses.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

MOST_REMEMBERED = 4
TOO_MUCH = 0.1
NEGLIGIBLE = 1e-3  # of the weight of the newest prediction; rounding stays below


class Solver:
    """Weights of predictions in the latents, by step.

    shares[k][n], n < k: weight of prediction n in the latents after step k, in units of prediction k's.
    remembered[k][n]: the part of it that is due to step k using prediction n again, the rest is from the steps before.
    entering[k][n]: weight of prediction n in the latents that step k begins with.
    """

    def __init__(
        self,
        shares: Sequence[Sequence[float]],
        remembered: Sequence[Sequence[float]] | None = None,
        entering: Sequence[Sequence[float]] | None = None,
    ):
        nothing = [[0.0] * len(row) for row in shares]
        self._shares, self._remembered, self._entering = shares, remembered or nothing, entering or nothing
        self.memory = max((k - n for k, row in enumerate(self._remembered) for n, w in enumerate(row) if w), default=0)

    def share(self, older: int, step: int) -> float:
        """How much of prediction `step` makes good an error of 1 in prediction `older`, by the latents after `step`."""
        return self._shares[step][older]

    def remembers(self, older: int, step: int) -> float:
        """How much of prediction `step` outweighs that `step` itself uses the older prediction."""
        return self._remembered[step][older]

    def enters(self, older: int, step: int) -> float:
        """By how much the latents that `step` begins with are off for an error of 1 in prediction `older`."""
        return self._entering[step][older]

    @staticmethod
    def of_levels(sigmas: Sequence[float]) -> Solver:
        """Euler's method, and in effect any that uses each prediction for its own step only.

        d(x/σ) = x₀ d(1/σ) along the path, so each counts by its step of 1/σ. After a last step to 0 none but the last.
        """
        inverse = [1.0 / sigma if sigma > 0.0 else float("inf") for sigma in sigmas]
        spans = [b - a if a < b else 0.0 for a, b in pairwise(inverse)]
        entering = [[sigma * older for older in spans[:k]] for k, sigma in enumerate(sigmas[:-1])]
        return Solver([[_ratio(older, span) for older in spans[:k]] for k, span in enumerate(spans)], None, entering)

    @staticmethod
    def of_responses(responses: Sequence[Sequence[float]], starts: Sequence[float]) -> Solver | None:
        """From latents at the steps' beginnings and at the end, K + 1 of each for K steps.

        responses[k][n]: those of a run from 0 in which prediction n is 1 and all others are 0; starts[k]: those of a
        run from 1 in which all are 0. None where a prediction does not count, or too many count again.
        """
        steps = len(responses) - 1
        shares, remembered = [], []
        for k in range(steps):
            after, before = responses[k + 1], responses[k]
            if not after[k] > 0.0:
                return None
            carried = starts[k + 1] / starts[k] if abs(starts[k]) > 1e-9 else 0.0
            used = [(after[n] - carried * before[n]) / after[k] for n in range(k)]
            if any(abs(weight) > TOO_MUCH for weight in used[: max(0, k - MOST_REMEMBERED)]):
                return None
            shares.append([weight / after[k] for weight in after[:k]])
            near = k - MOST_REMEMBERED
            remembered.append([w if n >= near and abs(w) > NEGLIGIBLE else 0.0 for n, w in enumerate(used)])
        return Solver(shares, remembered, [list(row[:k]) for k, row in enumerate(responses[:-1])])


def _ratio(older: float, newer: float) -> float:
    return older / newer if 0.0 < newer < float("inf") and older < float("inf") else 0.0
