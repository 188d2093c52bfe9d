"""Placing the computed steps on small clips: runs of the same model, sampled alike, at a fraction of the price.

What a schedule gains differs by several dB from pair to pair, so that to tell placements apart takes hundreds of runs.
Of clips with an eighth of the tokens that many can be paid for, and they rank schedules as the full size does. What is
found there is run in full size before it is taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..schedules import Forecast
from .experience import promising, usual_gain
from .genome import Genome
from .judge import Judge, mean_psnr
from .merit import CLEAR_DB
from .places import Places

FEWEST_PAIRS, MOST_PAIRS = 8, 128
RUNS_A_PAIR = 8  # for each budget; more pairs with fewer runs find as much, as dense runs are paid for, too
AT_ONCE = 8  # runs between two looks at what they tell: as many as may be spread over workers
COMES_TRUE = 0.5  # of the gains that it promises: what looks best is so in part by chance
SIZE_DB = 0.35  # by which gains on small clips are off those in full size


@dataclass(frozen=True)
class Learnt:
    """What runs on small clips tell. ways: to forecast, by their number in `places`; best first in `found`."""

    places: Places
    ways: tuple[Forecast, ...]
    found: tuple[Genome, ...]

    def gain(self, genome: Genome) -> tuple[float, float] | None:
        """dB to be expected over the drawn placement with the first way, and how far that may be off.

        None where nothing is known.
        """
        path = path_of(genome)
        if genome.mode != "default" or not genome.whole or not self.places.reaches(path):
            return None
        way = next((n for n, forecast in enumerate(self.ways) if _placed(path, genome, forecast) == genome), None)
        if way is None:
            return None
        mean, deviation = self.places.gain(path, way)
        return COMES_TRUE * mean, (deviation**2 + SIZE_DB**2) ** 0.5


class SmallClips:
    """Searches on small clips. judge: of these, all of whose cases are used."""

    def __init__(self, judge: Judge):
        self.judge, self.pairs = judge, judge.setting.cases

    def learn(self, drawn: Genome, affords: Callable[[Genome], bool], rng: random.Random) -> Learnt | None:
        """Run placements with as many computed steps as the drawn one, and promising ways to forecast.

        None where the drawn one leaves nothing to place.
        """
        if not _can_place(drawn):
            return None
        setting = self.judge.setting
        forecasts = tuple(dict.fromkeys((drawn.forecast, *promising(setting))))
        usual = [usual_gain(forecast, setting) for forecast in forecasts]
        expected = [gain - usual[0] for gain in usual]
        places = Places(len(drawn.budgets), path_of(drawn), expected, np.random.default_rng(rng.getrandbits(64)))
        asked = [(places.drawn, way) for way in range(2)]
        runs = RUNS_A_PAIR * self.pairs
        for first in range(0, runs, AT_ONCE):
            count = min(AT_ONCE, runs - first)
            asked += [places.suggest() for _ in range(count - len(asked))]
            jobs = []
            for number, (path, way) in enumerate(asked, start=first):
                genome = _placed(path, drawn, forecasts[way])
                if affords(genome):
                    jobs.append((number % self.pairs, genome, path, way))
            for pair in dict.fromkeys(pair for pair, *_ in jobs):
                self.judge.dense(pair)
            self.judge.make([(pair, genome) for pair, genome, _, _ in jobs])
            for pair, genome, path, way in jobs:
                psnr = mean_psnr([self.judge.outcomes[pair, genome].loss])
                places.add(path, way, pair, min(CLEAR_DB, psnr))
            asked = []
        return Learnt(places, forecasts, self._found(places, drawn, forecasts))

    def _found(self, places: Places, drawn: Genome, forecasts: Sequence[Forecast]) -> tuple[Genome, ...]:
        """The best placement with the best two ways to forecast, and the best way on the drawn placement."""
        path, best = places.best()
        ranked = sorted(range(len(forecasts)), key=lambda way: places.gain(path, way)[0], reverse=True)
        found = [_placed(path, drawn, forecasts[way]) for way in ranked[:2]]
        return tuple(dict.fromkeys([*found, _placed(places.drawn, drawn, forecasts[best])]))


def path_of(genome: Genome) -> tuple[int, ...]:
    """Its computed steps."""
    return tuple(step for step, budget in enumerate(genome.budgets) if budget > 0.0)


def _can_place(genome: Genome) -> bool:
    """Whether there is anything to place: whole steps between the ends that leave others to reuse."""
    path = path_of(genome)
    return genome.whole and genome.mode == "default" and len(path) > 2 and any(b - a > 1 for a, b in pairwise(path))


def _placed(path: Sequence[int], like: Genome, forecast: Forecast) -> Genome:
    budgets = tuple(1.0 if step in path else 0.0 for step in range(len(like.budgets)))
    return replace(like, budgets=budgets, forecast=forecast)
