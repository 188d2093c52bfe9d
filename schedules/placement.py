"""Placement of computed steps: those of a run that leave the least expected error in its result.

The error of any choice follows from the sampler's weights and from the prior (`prediction_prior`), without a call of
the model: forecasts miss, the latents lack what they missed, later predictions follow the latents, and what the next
computed step tells of it is corrected. Errors are linear in the predictions at all levels, so each is a vector of
coefficients, and its expected square is a quadratic form. The best choice is found by moving one step at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np

from ..limits import ZERO_SIGMA
from .forecast import ONSETS, REACHES, Forecast
from .prediction_prior import PredictionPrior

ANYWHERE = 24  # steps of a run up to which a computed step may move anywhere, not only to a near place
NEAR = 2  # steps that it may move in longer ones
LONGEST = 64  # model calls; of longer runs, steps are spaced evenly: it makes little difference and takes no time
FEW_CHOICES = 300  # are all tried
MAX_MOVES = 100  # of steps, one after the other; beyond, little is gained
HELD_BEGIN = 2  # multistep samplers use what changed between the first two predictions: a held one says nothing did
UNSEEN = 1e-9  # an expected error that nobody sees: no move is worth its time
ENOUGH_DB = 5.0  # of expected error: about 30 dB PSNR on the test models; fewer steps give another clip
BETTER = 1.0 - 1e-6  # a move must lower the error by as much: equal choices stay as they are


@dataclass(frozen=True)
class SamplerSteps:
    """The steps of a run as a placement needs them.

    levels: noise levels, the last one included; costs: model calls of each step; calls: level of each model call;
    call_steps: the step of each; weights: of the predictions in the latents after each call, `[C, C]`.
    """

    levels: tuple[float, ...]
    costs: tuple[int, ...]
    calls: tuple[float, ...]
    call_steps: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]

    @property
    def count(self) -> int:
        return len(self.levels) - 1

    @staticmethod
    def of_euler(levels: Sequence[float], costs: Sequence[int] | None = None) -> SamplerSteps:
        """Return the steps of Euler's method, which from σ to σ′ keeps σ′/σ of the latents; the rest is prediction.

        costs: default one call a step; more of them are priced as one.
        """
        count = len(levels) - 1
        rows: list[tuple[float, ...]] = []
        row = np.zeros(count)
        for step in range(count):
            kept = min(1.0, levels[step + 1] / levels[step]) if levels[step] > 0.0 else 1.0
            row = kept * row
            row[step] += 1.0 - kept
            rows.append(tuple(row.tolist()))
        calls, numbers = tuple(levels[:-1]), tuple(range(count))
        return SamplerSteps(tuple(levels), tuple(costs or (1,) * count), calls, numbers, tuple(rows))


class CautiousPrior(PredictionPrior):
    """Prior of what a placement has to suit: other models than forecasts assume, of all kinds.

    Fitted to the errors of a thousand placements on the test models (`benchmarks/fit_prior.py`).
    """

    decided, steady, misaligned = (-2.9, 4.0), (-2.6, 1.75), 0.2
    wider_reach, weaker_response = 1.9, 0.87
    guided, distilled = (1.0, 1.9), (0.75, 3.0)
    """Factor of the onset, and the swing, with guidance and without: then models mostly have it built in."""

    def __init__(self, forecast: Forecast):
        onset, swing = self.guided if forecast.swing else self.distilled
        super().__init__(
            replace(
                forecast,
                onset=max(ONSETS[0], onset * forecast.onset),
                reach=min(REACHES[1], self.wider_reach * forecast.reach),
                response=self.weaker_response * math.sqrt(forecast.response),
                swing=swing,
            )
        )


@dataclass
class _Progress:
    """Errors up to a call: by prediction, as coefficients of the right ones and of deviations from the response.

    deviations: variance of each computed call's; known: computed calls and their predictions, newest first; skipped:
    calls since the newest of them.
    """

    errors: np.ndarray
    deviations: np.ndarray
    known: tuple[tuple[int, np.ndarray], ...] = ()
    skipped: tuple[int, ...] = ()

    def copy(self) -> _Progress:
        return _Progress(self.errors.copy(), self.deviations.copy(), self.known, self.skipped)


class ExpectedError:
    """Expected squared error of the result of a run, by the steps that are computed, where predictions vary by 1.

    A part of a run that ends above σ 0 is measured by the share of the latents that its own predictions make.
    Estimates are the engine's, with these forecast settings; predictions are those of `CautiousPrior`.
    """

    def __init__(self, steps: SamplerSteps, forecast: Forecast):
        self.steps, self._estimates, self._prior = steps, PredictionPrior(forecast), CautiousPrior(forecast)
        calls = len(steps.calls)
        self._weights = np.vstack([np.zeros(calls), np.array(steps.weights).reshape(calls, calls)])
        self._covariance = self._prior.covariance(steps.calls)
        self._responses = [self._prior.response(level) for level in steps.calls]
        self._exact = np.eye(calls, 2 * calls)
        self._own_share = max(1e-3, abs(float(self._weights[-1].sum())))

    def of(self, computed: frozenset[int], begun: Sequence[_Progress] = (), since: int = 0) -> float:
        """Return the expected squared error if these steps are computed, the first among them.

        begun: the progress of a choice that is the same before step `since`, from `follow`.
        """
        first = next((c for c, step in enumerate(self.steps.call_steps) if step >= since), len(self.steps.calls))
        progress = begun[first].copy() if begun and first < len(begun) else self._begin()
        for call in range(first if begun and first < len(begun) else 0, len(self.steps.calls)):
            self._advance(progress, call, self.steps.call_steps[call] in computed)
        return self._square(self._weights[-1] @ progress.errors, progress.deviations) / self._own_share**2

    def follow(self, computed: frozenset[int]) -> list[_Progress]:
        """Return the progress of a choice before each call."""
        found, progress = [], self._begin()
        for call, step in enumerate(self.steps.call_steps):
            found.append(progress.copy())
            self._advance(progress, call, step in computed)
        return found

    def _begin(self) -> _Progress:
        calls = len(self.steps.calls)
        return _Progress(np.zeros((calls, 2 * calls)), np.zeros(calls))

    def _advance(self, progress: _Progress, call: int, computed: bool) -> None:
        levels, steps, known, exact = self.steps.calls, self.steps.call_steps, progress.known, self._exact[call]
        if not computed:
            weights = self._estimates.forecast_weights(levels[call], [levels[other] for other, _ in known])
            progress.errors[call] = _weighted(weights, known) - exact
            progress.skipped = (*progress.skipped, call)
            return
        latents, response = self._weights[call] @ progress.errors, self._responses[call]
        spread = self._prior.misaligned * response
        progress.deviations[call] = spread**2 * self._square(latents, progress.deviations)
        prediction = exact + response * latents
        prediction[len(levels) + call] += 1.0
        if known and progress.skipped:
            prediction = self._read(progress, call, prediction)
        progress.errors[call] = prediction - exact
        older = known[1:] if known and steps[known[0][0]] == steps[call] else known[:1]
        progress.known, progress.skipped = ((call, prediction), *older), ()

    def _read(self, progress: _Progress, call: int, prediction: np.ndarray) -> np.ndarray:
        """Take from a computed prediction what it tells of the skipped ones; return what right latents had led to."""
        levels, skipped = self.steps.calls, progress.skipped
        seen = self._estimates.observe(
            levels[call],
            [levels[other] for other, _ in progress.known],
            [levels[other] for other in skipped],
            self._weights[call, list(skipped)].tolist(),
        )
        values = [(call, prediction), *progress.known]
        for other, weights in zip(skipped, seen.skipped, strict=True):
            progress.errors[other] = _weighted(weights, values) - self._exact[other]
        return _weighted(seen.own, values)

    def _square(self, error: np.ndarray, deviations: np.ndarray) -> float:
        calls = len(deviations)
        own, further = error[:calls], error[calls:]
        return float(own @ self._covariance @ own + deviations @ np.square(further))


def _weighted(weights: Sequence[float], values: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    total = weights[0] * values[0][1]
    for weight, (_, value) in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total


def place_steps(steps: SamplerSteps, most: float, forecast: Forecast) -> tuple[bool, ...]:
    """Return which steps to compute with at most `most` model calls: the choice of the least expected error.

    The first step is computed whatever it costs, and the last one if it ends at σ 0.
    """
    if sum(steps.costs) <= most + 1e-6:
        return (True,) * steps.count
    if len(steps.calls) > LONGEST:
        return place_evenly(steps, most + 1e-6)
    return _place_steps(steps, math.floor(most + 1e-6), forecast)


def place_enough_steps(steps: SamplerSteps, most: float, forecast: Forecast) -> tuple[bool, ...]:
    """Return the steps of `place_steps`, or more of them, until their expected error is no worse than ENOUGH_DB.

    In runs of few steps, and at small budgets, fewer of them give another clip.
    """
    placed = place_steps(steps, most, forecast)
    if len(steps.calls) > LONGEST or all(placed):
        return placed
    error = ExpectedError(steps, forecast)

    def is_enough(choice: Sequence[bool]) -> bool:
        computed = frozenset(step for step, is_computed in enumerate(choice) if is_computed)
        return error.of(computed) <= 10.0 ** (-ENOUGH_DB / 10.0)

    if is_enough(placed):
        return placed
    too_few, enough = math.floor(most + 1e-6), sum(steps.costs)
    while enough - too_few > 1:
        calls = (too_few + enough) // 2
        if is_enough(place_steps(steps, calls, forecast)):
            enough = calls
        else:
            too_few = calls
    return place_steps(steps, enough, forecast)


@lru_cache(maxsize=64)
def _place_steps(steps: SamplerSteps, most: int, forecast: Forecast) -> tuple[bool, ...]:
    error, starts, fixed = ExpectedError(steps, forecast), _starts(steps, most), _fixed(steps)
    free, wanted = steps.count - len(fixed), len(starts[0]) - len(fixed)
    if len(set(steps.costs)) == 1 and math.comb(free, max(0, wanted)) <= FEW_CHOICES:
        others = combinations(sorted(set(range(steps.count)) - fixed), max(0, wanted))
        best = min((fixed | frozenset(other) for other in others), key=error.of)
        return tuple(step in best for step in range(steps.count))
    if steps.count > ANYWHERE:
        starts = [min(starts, key=error.of)]
    best = min((_improve(start, error, most) for start in starts), key=lambda choice: choice[0])[1]
    return tuple(step in best for step in range(steps.count))


def _improve(computed: frozenset[int], error: ExpectedError, most: int) -> tuple[float, frozenset[int]]:
    """Make the best move until none lowers the error; returns the error and the choice."""
    least = error.of(computed)
    for _ in range(MAX_MOVES):
        if least <= UNSEEN:
            break
        begun = error.follow(computed)
        moves = [(error.of(other, begun, since), other) for since, other in _moves(error.steps, computed, most)]
        price, moved = min(moves, key=lambda move: move[0], default=(least, computed))
        if not price < BETTER * least:
            break
        least, computed = price, moved
    return least, computed


def place_evenly(steps: SamplerSteps, most: float, begin: int = 1) -> tuple[bool, ...]:
    """Return steps to compute at even intervals with at most `most` model calls; the first `begin` ones all."""
    count = steps.count
    for number in range(count, begin, -1):
        spread = {begin - 1 + round(i * (count - begin) / (number - begin)) for i in range(number - begin + 1)}
        chosen = spread.union(range(begin))
        if sum(steps.costs[step] for step in chosen) <= most:
            return tuple(step in chosen for step in range(count))
    if begin > 1:
        return place_evenly(steps, most)
    fixed = _fixed(steps)
    return tuple(step in fixed for step in range(count))


def place_held(steps: SamplerSteps, most: float) -> tuple[bool, ...]:
    """Return steps to compute where predictions are held, as nothing is known of the sampler: see HELD_BEGIN."""
    return place_evenly(steps, most, HELD_BEGIN)


def _fixed(steps: SamplerSteps) -> frozenset[int]:
    """Return the steps that are computed whatever they cost: the first, and the last one if it ends at σ 0."""
    return frozenset({0, steps.count - 1} if steps.levels[-1] <= ZERO_SIGMA else {0})


def _starts(steps: SamplerSteps, most: float) -> list[frozenset[int]]:
    """Return choices to begin with, of as many steps as are affordable: spread evenly, and crowded at the end."""
    count, fixed = steps.count, _fixed(steps)
    for number in range(count, max(1, len(fixed) - 1), -1):
        even = frozenset(round(i * (count - 1) / (number - 1)) for i in range(number))
        last = frozenset({0, *range(count - number + 1, count)})
        affordable = [start for start in (even, last) if sum(steps.costs[step] for step in start) <= most]
        if affordable:
            return affordable
    return [fixed]


def _moves(steps: SamplerSteps, computed: frozenset[int], most: float) -> Iterator[tuple[int, frozenset[int]]]:
    """Yield all choices that differ by the place of one step, or have one more, within the cost.

    With the first step that differs.
    """
    count, costs, spent = steps.count, steps.costs, sum(steps.costs[step] for step in computed)
    reach = count if count <= ANYWHERE else NEAR
    for step in sorted(computed - _fixed(steps)):
        for place in range(max(1, step - reach), min(count, step + reach + 1)):
            if place not in computed and spent - costs[step] + costs[place] <= most:
                yield min(step, place), computed - {step} | {place}
    for step in sorted(set(range(count)) - computed):
        if spent + costs[step] <= most:
            yield step, computed | {step}
