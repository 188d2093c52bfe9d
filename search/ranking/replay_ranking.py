"""Ranks step-skipping candidates by replay, without model calls, corrected by real runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from statistics import fmean

from ..evaluation.evaluator import Evaluator
from ..evaluation.replay import Replay
from ..problem.candidate import Genome
from ..problem.losses import TYPICAL_STD_DB, mean_psnr
from .forecast_priors import expected_forecast_gain
from .standings import Standings


class ReplayRanking:
    """Ranking of one budget's candidates."""

    def __init__(self, replay: Replay, evaluator: Evaluator, standings: Standings):
        self.replay, self._evaluator, self._standings = replay, evaluator, standings

    def update(self) -> None:
        """Fit the replay's responses to all runs made so far."""
        self.replay.fit_responses(list(self._evaluator.outcomes.values()))

    def rank(self, genomes: Sequence[Genome]) -> list[Genome]:
        """Return candidates within the budget, best first: by replayed PSNR plus offset minus the prior's penalty."""
        offset, penalty = self._offsets(), self._standings.prior.penalty

        def score(genome: Genome) -> float:
            return mean_psnr(self.replay.losses(genome)) + offset(genome) - penalty(genome)

        return sorted(dict.fromkeys(filter(self._standings.fits_budget, genomes)), key=score, reverse=True)

    def is_close(self, genome: Genome, other: Genome) -> bool:
        """Tell whether a candidate's replayed PSNR is at most 2 · TYPICAL_STD_DB below another's."""
        self.update()
        return mean_psnr(self.replay.losses(genome)) > mean_psnr(self.replay.losses(other)) - 2.0 * TYPICAL_STD_DB

    def _offsets(self) -> Callable[[Genome], float]:
        """Return a function of a candidate: dB by which real runs of its forecast and mode beat their replay.

        With few runs, the mean difference is shrunk toward the forecast's prior gain.
        """
        prior = cache(partial(expected_forecast_gain, setting=self._evaluator.setting))
        residuals: dict[tuple, list[float]] = {}  # beyond the prior gain
        for genome, evaluation in {**self._standings.partial, **self._standings.complete}.items():
            if not genome.has_partial_steps and not evaluation.aborted:
                replayed = self.replay.losses(genome)[: len(evaluation.losses)]
                residual = evaluation.score - mean_psnr(replayed) - prior(genome.forecast)
                residuals.setdefault((genome.forecast, genome.mode), []).append(residual)
        mean = fmean(value for values in residuals.values() for value in values) if residuals else 0.0
        shrunk = {key: math.fsum([*values, mean]) / (len(values) + 1) for key, values in residuals.items()}
        return lambda genome: shrunk.get((genome.forecast, genome.mode), mean) + prior(genome.forecast)
