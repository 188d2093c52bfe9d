"""Placements learnt from runs: what is found on a landscape that is known, and what is promised of it."""

from __future__ import annotations

import functools
import itertools
from statistics import fmean

import numpy as np
import pytest

from astraea.search.places import LONGEST_GAP, Places

STEPS, DRAWN = 20, (0, 3, 6, 9, 12, 15, 19)
WAYS = (0.0, 0.5, 0.0)


def places(seed: int = 0) -> Places:
    return Places(STEPS, DRAWN, WAYS, np.random.default_rng(seed))


def gaps(path: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(start, end - start) for start, end in itertools.pairwise(path)]


def true_gain(path: tuple[int, ...], way: int) -> float:
    """Narrow gaps early and wide ones late are best; the last way is the best one, unlike what is expected."""

    def worth(path: tuple[int, ...]) -> float:
        return -sum((width - (1.5 + 0.2 * start)) ** 2 for start, width in gaps(path)) / 4.0

    return worth(path) - worth(DRAWN) + (0.0, -0.5, 1.0)[way]


def learnt(seed: int, runs: int = 120, pairs: int = 12, noise: float = 1.0) -> Places:
    model, rng = places(seed), np.random.default_rng(1000 + seed)
    levels = 5.0 * rng.standard_normal(pairs)
    for number in range(runs):
        path, way = model.suggest() if number else (DRAWN, 0)
        pair = number % pairs
        model.add(path, way, pair, 40.0 + levels[pair] + true_gain(path, way) + noise * rng.standard_normal())
    return model


@functools.cache
def all_paths() -> list[tuple[int, ...]]:
    model, inner = places(), itertools.combinations(range(1, STEPS - 1), len(DRAWN) - 2)
    return [path for chosen in inner if model.reaches(path := (0, *chosen, STEPS - 1))]


def test_before_any_run_the_drawn_placement_is_best():
    assert places().best() == (DRAWN, 1)
    assert places().gain(DRAWN, 1)[0] == pytest.approx(0.5)


def test_nothing_is_uncertain_about_the_drawn_one_itself():
    assert places().gain(DRAWN, 0) == (0.0, 0.0)
    assert learnt(0).gain(DRAWN, 0) == (pytest.approx(0.0), pytest.approx(0.0, abs=1e-6))


def test_suggestions_have_as_many_computed_steps_and_both_ends():
    model = learnt(0, runs=20)
    for path, way in (model.suggest() for _ in range(50)):
        assert (path[0], path[-1], len(path)) == (0, STEPS - 1, len(DRAWN))
        assert list(path) == sorted(set(path))
        assert way in range(len(WAYS))
        assert model.reaches(path)


def test_the_best_path_is_that_of_most_worth():
    model = places()
    worth = np.random.default_rng(3).standard_normal(STEPS * LONGEST_GAP)
    best = max(all_paths(), key=lambda path: model._cells(path) @ worth)
    assert model._best_path(worth) == best


@pytest.mark.parametrize("seed", range(4))
def test_finds_most_of_what_there_is_to_gain(seed: int):
    most = max(true_gain(path, 2) for path in all_paths())
    assert most > 1.5
    assert true_gain(*learnt(seed).best()) > 0.6 * most


def test_more_runs_find_more_and_promise_more_surely():
    few, many = [learnt(seed, runs=24) for seed in range(6)], [learnt(seed, runs=240) for seed in range(6)]
    found = [fmean(true_gain(*model.best()) for model in group) for group in (few, many)]
    unsure = [fmean(model.gain(*model.best())[1] for model in group) for group in (few, many)]
    assert found[1] > found[0]
    assert unsure[1] < unsure[0] < places().gain(few[0].best()[0], 1)[1]


def test_runs_on_one_pair_promise_less_than_runs_on_many():
    """What is found on one pair may be that pair's own."""
    other = (0, 2, 5, 8, 12, 16, 19)
    one, many = places(), places()
    for number in range(40):
        for model, pair in ((one, 0), (many, number // 2)):
            path = (DRAWN, other)[number % 2]
            model.add(path, 0, pair, 40.0 + (3.0 if path == other else 0.0))
    assert one.gain(other, 0)[0] < many.gain(other, 0)[0] - 0.5
    assert one.gain(other, 0)[1] > many.gain(other, 0)[1]


def test_the_level_of_a_pair_tells_nothing_of_placements():
    """A placement that was run on an easy pair only is not better for it."""
    other = (0, 2, 5, 8, 12, 16, 19)
    model = places()
    for pair, level in enumerate((30.0, 50.0)):
        model.add(DRAWN, 0, pair, level)
    model.add(other, 0, 1, 50.0)
    assert abs(model.gain(other, 0)[0]) < 1.0


def test_the_same_seed_suggests_the_same():
    first, again = learnt(5, 30), learnt(5, 30)
    assert [first.suggest() for _ in range(3)] == [again.suggest() for _ in range(3)]


def test_alike_gaps_are_taken_to_be_alike():
    near, far = (0, 3, 6, 9, 12, 16, 19), (0, 3, 8, 9, 12, 15, 19)
    model = places()
    before = model.gain(near, 0)[0]
    for pair in range(20):
        model.add(DRAWN, 0, pair, 40.0)
        model.add((0, 3, 6, 9, 13, 16, 19), 0, pair, 44.0)
    assert model.gain(near, 0)[0] > before + 0.5
    assert abs(model.gain(far, 0)[0] - places().gain(far, 0)[0]) < model.gain(near, 0)[0] - before


def test_wide_drawn_gaps_are_reached():
    drawn = (0, 12, 19)
    model = Places(STEPS, drawn, WAYS, np.random.default_rng(0))
    assert model.reaches(drawn)
    assert model.best()[0] == drawn
    assert not model.reaches((0, 3, 12, 19)), "another number of computed steps"
