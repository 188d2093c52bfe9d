"""The density of a run is divided among heads: the mean is kept, and the sum of errors is the least that it allows."""

from __future__ import annotations

import itertools

import pytest
import torch

from astraea.engine.sparse.allocation import Allocation

LEVELS = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)


def total(errors, levels):
    return sum(float(errors[level, head]) for head, level in enumerate(levels))


def mean_of(levels):
    return sum(float(LEVELS[level]) for level in levels) / len(levels)


def falling(heads, seed):
    """Errors that fall with the density, ever less, `[L, H]`."""
    size, rate = torch.rand(2, heads, generator=torch.Generator().manual_seed(seed)).double()
    return size * torch.exp(-20.0 * rate * LEVELS.unsqueeze(-1))


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_near_the_best_that_the_mean_allows(seed):
    errors = falling(6, seed)
    levels = Allocation(0.2).of("layer", 1).choose(LEVELS, errors, 0.2)
    assert mean_of(levels) <= 0.2 + 1e-9
    possible = [each for each in itertools.product(range(3), repeat=6) if mean_of(each) <= 0.2 + 1e-9]
    best = min(total(errors, each) for each in possible)
    even = total(errors, [1] * 6)
    assert total(errors, levels) <= even
    assert total(errors, levels) <= best + 0.25 * (even - best) + 0.02


def test_heads_that_gain_nothing_give_their_part_to_those_that_do():
    errors = torch.tensor([[0.1, 1.0, 0.1], [0.1, 0.5, 0.1], [0.1, 0.0, 0.1]]).double()
    assert Allocation(0.2).of("layer", 1).choose(LEVELS, errors, 0.2) == [0, 2, 0]


def test_layers_share_one_mean():
    allocation = Allocation(0.2)
    flat, steep = torch.full((3, 4), 0.1).double(), torch.tensor([[1.0], [0.5], [0.0]]).double().expand(3, 4)
    first = allocation.of(0, 1).choose(LEVELS, flat, 0.2)
    second = allocation.of(1, 1).choose(LEVELS, steep, 0.2)
    assert first == [0] * 4
    assert mean_of(first + second) <= 0.2 + 1e-9
    assert second.count(2) >= 1
    again = allocation.of(0, 2).choose(LEVELS, steep, 0.2)  # measured anew at the next step: it has changed
    assert mean_of(again + allocation.of(1, 2).choose(LEVELS, steep, 0.2)) <= 0.2 + 1e-9
    assert max(again) >= 1


def test_equal_heads_keep_the_mean():
    errors = torch.tensor([[0.9], [0.4], [0.3]]).double().expand(3, 5)
    levels = Allocation(0.2).of("layer", 1).choose(LEVELS, errors, 0.2)
    assert mean_of(levels) == pytest.approx(0.2)


def test_levels_are_shares_of_the_density_and_at_most_1():
    assert Allocation(0.3).levels() == pytest.approx([0.15, 0.225, 0.3, 0.42, 0.6])
    assert Allocation(0.8).levels() == pytest.approx([0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("rising", [False, True])
def test_the_mean_is_kept_at_every_step_whichever_layers_lose_the_most(rising):
    """Of layers that come later nothing is known at the first step: none may spend what others have."""
    allocation = Allocation(0.2)
    for step in (1, 2):
        spent = []
        for layer in range(12):
            scale = (layer + 1 if rising else 12 - layer) / 12
            errors = scale * torch.tensor([[1.0], [0.5], [0.1]]).double().expand(3, 2)
            spent += allocation.of(layer, step).choose(LEVELS, errors, 0.2)
            assert step == 2 or mean_of(spent) <= 0.2 + 1e-9
        assert 0.17 <= mean_of(spent) <= 0.2 + 1e-9
