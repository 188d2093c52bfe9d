"""What placements of whole steps are worth, learnt from runs: a Gaussian process over the gaps between computed steps.

A placement's gain is taken for the sum of what its gaps are worth, by where they begin and how wide they are, alike for
gaps that are alike; ways to forecast add what they are worth. On a single prompt–seed pair all that is otherwise, more
so than it differs on the mean: pairs have a process of their own, so that runs on few pairs promise little. As worths
add up, the best placement by any draw from the posterior is found by dynamic programming, and what is run next is the
best by such draws (Thompson's sampling). The process' constants were fitted to 1,500 runs on the two test models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Path: TypeAlias = tuple[int, ...]  # the computed steps, first and last included
Array: TypeAlias = NDArray[np.float64]

LONGEST_GAP = 9  # from one computed step to the next, unless the drawn placement has wider ones
WIDER = 3  # how much wider than those
WHOLE_RUN = 30  # steps of the runs that the constants below were fitted to
PLACE_SCALE, WIDTH_SCALE, WORTH_DB = 2.5, 0.7, 0.75  # in steps, in e-folds of the width; spread of a gap's worth
PAIR_PLACE_SCALE, PAIR_WIDTH_SCALE, PAIR_WORTH_DB = 0.9, 0.45, 1.4  # the same of what is a pair's own
OTHERWISE_DB = 0.7  # what is lost, in the mean, by a gap of twice or half the drawn width, for each such width
WAY_DB, PAIR_WAY_DB = 0.7, 0.7  # how far ways to forecast are from what is expected of them; of what is a pair's own
PAIR_DB, REST_DB, UNKNOWN_DB = 5.0, 2.0, 30.0  # how close pairs come; what is left; how close all come


class Places:
    """Gains of placements with one number of computed steps, over a drawn one.

    drawn: the placement that one has without a search. ways: dB that each way to forecast is expected to gain over the
    first, which is the drawn placement's. rng: of draws.
    """

    def __init__(self, steps: int, drawn: Path, ways: Sequence[float], rng: np.random.Generator):
        self.steps, self.drawn, self._rng = steps, drawn, rng
        self._ways = np.asarray(ways, dtype=float)
        self._widest = max(LONGEST_GAP, max(b - a for a, b in pairwise(drawn)) + WIDER)
        places, widths = np.arange(steps) * WHOLE_RUN / steps, np.log(np.arange(1, self._widest + 1))
        self._alike = WORTH_DB**2 * np.kron(_alike(places, PLACE_SCALE), _alike(widths, WIDTH_SCALE))
        own = np.kron(_alike(places, PAIR_PLACE_SCALE), _alike(widths, PAIR_WIDTH_SCALE))
        self._pair_alike = PAIR_WORTH_DB**2 * own
        self._root = np.linalg.cholesky(self._alike + 1e-6 * np.eye(len(self._alike)))
        self._expected = self._worth_before()
        self._paths: list[Path] = []
        self._way_of: list[int] = []
        self._pair_of: list[int] = []
        self._psnr: list[float] = []
        self._fitted: _Fit | None = None

    def add(self, path: Path, way: int, pair: int, psnr: float) -> None:
        """Take a run's PSNR in dB."""
        self._paths.append(path)
        self._way_of.append(way)
        self._pair_of.append(pair)
        self._psnr.append(psnr)
        self._fitted = None

    def suggest(self) -> tuple[Path, int]:
        """A placement and a way to run next: the best ones by a draw from the posterior."""
        worth, ways = self._draw()
        return self._best_path(worth), int(np.argmax(ways))

    def best(self) -> tuple[Path, int]:
        """What is expected to gain most."""
        worth, ways = self._mean()
        return self._best_path(worth), int(np.argmax(ways))

    def gain(self, path: Path, way: int) -> tuple[float, float]:
        """dB over the drawn placement with the first way, on the mean of all pairs, and the standard deviation."""
        worth, ways = self._mean()
        change = self._cells(path) - self._cells(self.drawn)
        mean = float(change @ worth + ways[way] - ways[0])
        covariance = self._alike @ change
        before = change @ covariance + (2.0 * WAY_DB**2 if way else 0.0)
        if not self._paths:
            return mean, math.sqrt(before)
        fit = self._fit()
        told = fit.cells @ covariance + WAY_DB**2 * ((fit.ways == way).astype(float) - (fit.ways == 0))
        return mean, math.sqrt(max(0.0, float(before - told @ fit.solved(told))))

    def reaches(self, path: Path) -> bool:
        """Whether it knows such placements: as many computed steps as the drawn one has, no gap too wide."""
        return len(path) == len(self.drawn) and max(b - a for a, b in pairwise(path)) <= self._widest

    def _cell(self, start: int, width: int) -> int:
        return start * self._widest + width - 1

    def _cells(self, path: Path) -> Array:
        """How often the placement has each gap, by where it begins and how wide it is."""
        found = np.zeros(self.steps * self._widest)
        found[[self._cell(a, b - a) for a, b in pairwise(path)]] = 1.0
        return found

    def _worth_before(self) -> Array:
        """Before any run: gaps of the drawn widths are best."""
        worth = np.zeros(self.steps * self._widest)
        gaps = list(pairwise(self.drawn))
        for start in range(self.steps):
            for width in range(1, self._widest + 1):
                around = next((gap for gap in reversed(gaps) if gap[0] <= start + width / 2.0), gaps[0])
                ratio = width / (around[1] - around[0])
                worth[self._cell(start, width)] = -OTHERWISE_DB * ratio * math.log2(ratio) ** 2
        return worth

    def _fit(self) -> _Fit:
        if self._fitted is None:
            cells = np.array([self._cells(path) for path in self._paths])
            ways, pairs = np.array(self._way_of), np.array(self._pair_of)
            same_way, same_pair = ways[:, None] == ways, pairs[:, None] == pairs
            own = cells @ self._pair_alike @ cells.T + PAIR_DB**2 + PAIR_WAY_DB**2 * same_way
            own = same_pair * own + REST_DB**2 * np.eye(len(pairs))
            shared = cells @ self._alike @ cells.T + WAY_DB**2 * same_way + UNKNOWN_DB**2
            rest = np.array(self._psnr) - np.mean(self._psnr) - cells @ self._expected - self._ways[ways]
            self._fitted = _Fit(cells, ways, np.linalg.cholesky(own), np.linalg.cholesky(shared + own), rest)
        return self._fitted

    def _mean(self) -> tuple[Array, Array]:
        """The posterior's mean worth of gaps and of ways."""
        if not self._paths:
            return self._expected.copy(), self._ways.copy()
        fit = self._fit()
        return self._after(fit, fit.solved(fit.rest), self._expected, self._ways)

    def _draw(self) -> tuple[Array, Array]:
        """Drawn from the posterior: a draw from the prior, with what runs on it would be told by those made."""
        worth = self._expected + self._root @ self._rng.standard_normal(len(self._root))
        ways = self._ways + WAY_DB * self._rng.standard_normal(len(self._ways))
        if not self._paths:
            return worth, ways
        fit = self._fit()
        drawn = fit.cells @ (worth - self._expected) + (ways - self._ways)[fit.ways]
        drawn += fit.own_root @ self._rng.standard_normal(len(drawn)) + UNKNOWN_DB * self._rng.standard_normal()
        return self._after(fit, fit.solved(fit.rest - drawn), worth, ways)

    def _after(self, fit: _Fit, told: Array, worth: Array, ways: Array) -> tuple[Array, Array]:
        by_way = np.bincount(fit.ways, weights=told, minlength=len(self._ways))
        return worth + self._alike @ (told @ fit.cells), ways + WAY_DB**2 * by_way

    def _best_path(self, worth: Array) -> Path:
        """The placement of most worth with as many computed steps as the drawn one, by dynamic programming."""
        gaps, last = len(self.drawn) - 1, self.steps - 1
        by_gap = worth.reshape(self.steps, self._widest)
        totals = np.full(self.steps, -np.inf)
        totals[0] = 0.0
        before: list[NDArray[np.intp]] = []
        for _ in range(gaps):
            reached = np.full((self._widest, self.steps), -np.inf)
            for width in range(1, min(self._widest, last) + 1):
                reached[width - 1, width:] = totals[:-width] + by_gap[:-width, width - 1]
            widths = reached.argmax(0)
            totals = reached.max(0)
            before.append(np.arange(self.steps) - widths - 1)
        path = [last]
        for steps_before in reversed(before):
            path.append(int(steps_before[path[-1]]))
        return tuple(reversed(path))


class _Fit:
    """What runs tell: their gaps and ways, the roots of what is pairs' own and of everything, what is unexplained."""

    def __init__(self, cells: Array, ways: NDArray[np.int_], own_root: Array, root: Array, rest: Array):
        self.cells, self.ways, self.own_root, self._root, self.rest = cells, ways, own_root, root, rest

    def solved(self, values: Array) -> Array:
        """The inverse of everything's covariance times values."""
        return np.linalg.solve(self._root.T, np.linalg.solve(self._root, values))


def _alike(places: Array, scale: float) -> Array:
    return np.exp(-0.5 * ((places[:, None] - places) / scale) ** 2)
