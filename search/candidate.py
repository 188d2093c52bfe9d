"""What is searched: budgets by step and how the rest is estimated; how two of them are mixed and one is changed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..schedules import DEFAULT_FORECAST, DEFAULT_MODE, Forecast, Schedule

LAST_STEP_FLOOR = 0.5
FREE_SIZES = tuple(number / 10 for number in range(11))  # of the paper, §3.3
PRIOR_GAINS = (0.0, 0.25, 0.5)
AXES = (
    ("sigma", "sigma"),
    ("log-snr", "log-snr"),
    ("sigma", "log-snr"),
    ("root", "root"),
    ("sigma", "root"),
    ("power-0.75", "power-0.75"),
)
CURVATURES = (0.0, 0.5, 1.0)
FINAL_STEP_GAINS = (0.0, 0.35)
FORECASTS = tuple(
    Forecast(gain, *axes, curvature, FINAL_STEP_GAINS[-1])
    for gain in PRIOR_GAINS
    for axes in AXES
    for curvature in CURVATURES
)


@dataclass(frozen=True)
class Genome:
    """budgets: one per step, the first 1 and the last at least 0.5; the rest as in a `Schedule`."""

    budgets: tuple[float, ...]
    forecast: Forecast = DEFAULT_FORECAST
    mode: str = DEFAULT_MODE

    def __post_init__(self) -> None:
        # Nothing is missed where a computed step comes before the last: two spellings would be run for one thing.
        if self.forecast.final_step_gain and self.budgets[-2:-1] != (0.0,):
            object.__setattr__(self, "forecast", replace(self.forecast, final_step_gain=0.0))

    @property
    def whole(self) -> bool:
        """Whether steps are computed as a whole or not at all."""
        return set(self.budgets) <= {0.0, 1.0}

    def schedule(self, sigmas: Sequence[float], name: str = "candidate", family: str = "any") -> Schedule:
        points = tuple(zip(sigmas, self.budgets, strict=False))
        return Schedule(name, points, family=family, mode=self.mode, forecast=self.forecast)


def genome_of(schedule: Schedule) -> Genome:
    return Genome(schedule.budgets, schedule.forecast, schedule.mode)


def mean_budget(budgets: Sequence[float], evaluations: Sequence[int]) -> float:
    """Over the model calls of a run.

    `math.fsum`, here and wherever a search decides by a sum: the built-in one rounds otherwise from Python 3.12 on, and
    a seed is to find the same everywhere.
    """
    return math.fsum(b * e for b, e in zip(budgets, evaluations, strict=True)) / sum(evaluations)


def moved(genome: Genome, rng: random.Random, moves: int = 1) -> Genome:
    """Each move takes one computed step to a place near by that is not computed; the ends stay.

    The mean budget is kept where every step has as many calls.
    """
    budgets = list(genome.budgets)
    for _ in range(moves):
        computed = [k for k in range(1, len(budgets) - 1) if budgets[k] > 0.0]
        if not computed:
            break
        step = rng.choice(computed)
        free = [k for k in range(max(1, step - 3), min(len(budgets) - 1, step + 4)) if budgets[k] == 0.0]
        if free:
            place = rng.choice(free)
            budgets[place], budgets[step] = budgets[step], 0.0
    return replace(genome, budgets=tuple(budgets))


def other_forecast(genome: Genome, rng: random.Random) -> Genome:
    """One of the neighbouring ways to forecast: one setting of it is another."""
    now = genome.forecast
    near = [replace(now, prior_gain=gain) for gain in PRIOR_GAINS]
    near += [
        replace(now, extrapolation_axis=extrapolation_axis, interpolation_axis=corrected)
        for extrapolation_axis, corrected in AXES
    ]
    near += [replace(now, curvature=curvature) for curvature in CURVATURES]
    near += [replace(now, final_step_gain=response) for response in FINAL_STEP_GAINS]
    return replace(genome, forecast=rng.choice([other for other in near if other != now]))


def uniform_crossover(a: Sequence[float], b: Sequence[float], rng: random.Random) -> list[float]:
    """Each step from one parent or the other (paper, §3.3)."""
    return [x if rng.random() < 0.5 else y for x, y in zip(a, b, strict=True)]


def block_crossover(a: Sequence[float], b: Sequence[float], rng: random.Random) -> list[float]:
    """A contiguous segment from the second parent, the rest from the first (paper, §3.3)."""
    start, end = sorted(rng.sample(range(len(a) + 1), 2))
    return [*a[:start], *b[start:end], *a[end:]]


def with_ends(budgets: Sequence[float], sigmas: Sequence[float]) -> list[float]:
    """The first step full and a last one that ends at sigma 0 at least half, as runs have them anyway."""
    ended = [1.0, *budgets[1:]]
    if sigmas[-1] <= 1e-4:
        ended[-1] = max(ended[-1], LAST_STEP_FLOOR)
    return ended


def repaired(
    budgets: Sequence[float],
    evaluations: Sequence[int],
    band: tuple[float, float],
    rng: random.Random,
    sizes: Sequence[float] = FREE_SIZES,
) -> list[float]:
    """Budgets whose mean lies in the band: random steps go one size up or down until it does (paper, §3.3)."""
    repaired_, last = list(budgets), len(budgets) - 1
    low, high = band
    for _ in range(200 * len(budgets)):
        mean = mean_budget(repaired_, evaluations)
        if low <= mean <= high:
            break
        upwards = mean < low
        step = rng.randrange(1, len(budgets))
        place = min(range(len(sizes)), key=lambda i: abs(sizes[i] - repaired_[step]))
        place = min(max(place + (1 if upwards else -1), 0), len(sizes) - 1)
        repaired_[step] = max(sizes[place], LAST_STEP_FLOOR if step == last else 0.0)
    return repaired_


def most_steps(genome: Genome, evaluations: Sequence[int], target: float, rng: random.Random) -> Genome:
    """Whole steps brought to as many as the target pays for: random ones are added or taken away."""
    budgets, calls = list(genome.budgets), sum(evaluations)
    inner = range(1, len(budgets) - 1)
    while mean_budget(budgets, evaluations) > target + 1e-6:
        computed = [k for k in inner if budgets[k] > 0.0]
        if not computed:
            break
        budgets[rng.choice(computed)] = 0.0
    while free := [k for k in inner if budgets[k] == 0.0]:
        step = rng.choice(free)
        if mean_budget(budgets, evaluations) + evaluations[step] / calls > target + 1e-6:
            break
        budgets[step] = 1.0
    return replace(genome, budgets=tuple(budgets))
