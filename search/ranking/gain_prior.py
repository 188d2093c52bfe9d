"""Gain over the baseline that is expected of a candidate before it is run in full size."""

from __future__ import annotations

from dataclasses import replace

from ..evaluation.replay import Replay
from ..problem.candidate import Genome, longest_skip
from ..problem.losses import mean_psnr
from ..problem.runner import SamplingConfig
from .forecast_priors import expected_forecast_gain

# dB subtracted for each step that is moved, and for each step by which the longest skip is longer.
MOVED_DB, LONGER_SKIP_DB = 0.15, 2.0
REPLAY_SHARE = 0.5  # part of a replayed gain that is expected
MIN_REPLAY_DB, MAX_REPLAY_DB = -2.0, 1.0


class GainPrior:
    """Prior gains in dB over the baseline, from experience with forecasts and from replay of placements."""

    def __init__(self, setting: SamplingConfig, baseline: Genome, replay: Replay | None):
        self._setting, self.baseline, self._replay = setting, baseline, replay

    def of(self, genome: Genome) -> float:
        """Return the expected gain of a candidate."""
        gain = expected_forecast_gain(genome.forecast, self._setting) - expected_forecast_gain(
            self.baseline.forecast, self._setting
        )
        if genome.budgets == self.baseline.budgets:
            return gain
        gain -= self.penalty(genome)
        if self._replay is None or genome.has_partial_steps or self.baseline.has_partial_steps:
            return gain
        same_forecast = replace(self.baseline, forecast=genome.forecast, mode=genome.mode)
        replayed = mean_psnr(self._replay.losses(genome)) - mean_psnr(self._replay.losses(same_forecast))
        return gain + min(MAX_REPLAY_DB, max(MIN_REPLAY_DB, REPLAY_SHARE * replayed))

    def penalty(self, genome: Genome) -> float:
        """Return the dB by which replay may overrate a placement, most where skips are longer than the baseline's."""
        known = self.baseline.budgets
        moved = sum(a != b for a, b in zip(genome.budgets, known, strict=True)) / 2.0
        return MOVED_DB * moved + LONGER_SKIP_DB * max(0, longest_skip(genome.budgets) - longest_skip(known))
