"""Routing: means of tiles, scores of their pairs, the selection of tiles, and the term of all others."""

from __future__ import annotations

import math

import pytest
import torch

from astraea.kernels.key_tiles import KEY_TILE, QUERY_TILE
from astraea.kernels.routing import (
    rest_of,
    select_tiles,
    tile_means,
    tile_scores,
)
from astraea.kernels.routing_reference import UNLISTED, select_tiles_reference, tile_means_reference

SELECTIONS = {"as used": select_tiles, "the definition": select_tiles_reference}
BY_SELECTION = pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ints(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "tile"), [(256, 64), (331, 64), (161, 128), (50, 64), (45, 16)])
def test_means_of_tiles(rows, tile, dtype):
    x = torch.randn(2, rows, 3, 64, generator=generator()).to(dtype)
    means = tile_means(x, tile)
    assert means.dtype == torch.float32
    assert means.shape == (2, 3, math.ceil(rows / tile), 64)
    for number in range(means.shape[2]):
        expected = x[:, number * tile : (number + 1) * tile].double().mean(1)
        assert torch.allclose(means[:, :, number].double(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 1), (2, 3)], ids=str)
def test_means_of_tiles_in_an_order(shape):
    x = torch.randn(2, 331, 3, 64, generator=generator())
    rows = torch.rand(*shape, 331, generator=generator(1)).argsort(-1).to(torch.int32)
    means = tile_means(x, 64, rows)
    for b, head in ((0, 0), (1, 1), (1, 2)):
        permuted = x[b : b + 1, rows[b % shape[0], head % shape[1]].long(), head : head + 1]
        assert torch.allclose(means[b, head], tile_means_reference(permuted, 64)[0, 0], atol=1e-6)
    assert not torch.allclose(means, tile_means(x, 64), atol=1e-2)


@pytest.mark.parametrize("keys", [256, 331, 257])
def test_scores_are_exact_where_tiles_are_uniform(keys):
    """Scores are the logarithm of the key tile's part of the sum of the softmax, with equal rows in each tile."""
    tiles = math.ceil(keys / KEY_TILE)
    of_key_tile = torch.randn(1, 2, tiles, 64, generator=generator())
    of_query_tile = torch.randn(1, 2, 2, 64, generator=generator(1))
    k = of_key_tile.repeat_interleave(KEY_TILE, 2)[:, :, :keys].transpose(1, 2)
    q = of_query_tile.repeat_interleave(QUERY_TILE, 2)[:, :, :200].transpose(1, 2)
    scores = tile_scores(tile_means(q, QUERY_TILE), tile_means(k, KEY_TILE), keys, 0.3)
    assert scores.shape == (1, 2, 2, tiles)
    pairs = 0.3 * torch.einsum("bmhd,bnhd->bhmn", q[:, ::QUERY_TILE].double(), k.double())
    for number in range(tiles):
        expected = pairs[..., number * KEY_TILE : (number + 1) * KEY_TILE].logsumexp(-1)
        assert torch.allclose(scores[..., number].double(), expected, atol=1e-5)


def test_a_ragged_last_tile_scores_less_by_its_size():
    means = torch.ones(1, 1, 3, 4)
    whole, ragged = (tile_scores(means, means, keys, 0.25, 16) for keys in (48, 36))
    assert torch.equal(whole[..., :-1], ragged[..., :-1])
    assert torch.allclose(whole[..., -1] - ragged[..., -1], torch.tensor(math.log(16 / 4)))
    assert torch.allclose(whole, torch.tensor(1.0 + math.log(16)))


def test_planted_tiles_are_found_in_every_row():
    planted = torch.tensor([3, 8, 17, 25])
    generator_ = generator()
    direction = torch.nn.functional.normalize(torch.randn(64, generator=generator_), dim=0)
    q = torch.randn(2, 700, 3, 64, generator=generator_) + 3.0 * direction
    k = torch.randn(2, 30 * KEY_TILE, 3, 64, generator=generator_)
    for number in planted.tolist():
        k[:, number * KEY_TILE : (number + 1) * KEY_TILE] += 4.0 * direction
    scores = tile_scores(tile_means(q, QUERY_TILE), tile_means(k, KEY_TILE), k.shape[1], 0.125)
    lists = select_tiles(scores, ints(4, 6, 10), 10)
    found = (lists.unsqueeze(-1) == planted).any(-2)
    assert found.all()
    assert torch.equal(lists[:, 0, :, :4], planted.to(torch.int32).expand(2, 6, 4))


@BY_SELECTION
@pytest.mark.parametrize("forced", [0, 1, 3])
@pytest.mark.parametrize("counts", [(4, 4, 4), (3, 9, 20), (20, 3, 3)], ids=str)
def test_lists_have_exactly_their_counts_ascending(select, forced, counts):
    scores = torch.randn(2, 3, 5, 20, generator=generator())
    lists = select(scores, ints(*counts), max(counts), forced)
    assert lists.dtype == torch.int32
    assert lists.shape == (2, 3, 5, max(counts))
    free = 20 - forced
    for head, count in enumerate(counts):
        own = lists[:, head]
        assert own[..., count:].eq(UNLISTED).all()
        assert own[..., :count].diff(dim=-1).gt(0).all()
        assert own[..., count - forced : count].eq(torch.arange(free, 20)).all()
        best = scores[:, head, :, :free].topk(count - forced).indices.sort().values
        assert torch.equal(own[..., : count - forced].long(), best)


@BY_SELECTION
def test_forced_tiles_are_listed_whatever_their_score(select):
    scores = torch.zeros(1, 1, 3, 8)
    scores[..., -2], scores[..., -1] = -math.inf, math.nan
    assert select(scores, ints(3), 3, 2)[0, 0].tolist() == [[0, 6, 7]] * 3
    assert select(scores, ints(2), 3, 2)[0, 0].tolist() == [[6, 7, UNLISTED]] * 3
    assert select(scores, ints(8), 8, 8)[0, 0].tolist() == [[*range(8)]] * 3


@BY_SELECTION
def test_of_equal_scores_the_first_tiles_count(select):
    scores = torch.zeros(1, 2, 1, 600)
    scores[..., 500:] = 1.0
    lists = select(scores, ints(50, 130), 130)
    assert lists[0, 0, 0, :50].tolist() == [*range(500, 550)]
    assert lists[0, 1, 0].tolist() == [*range(30), *range(500, 600)]


@BY_SELECTION
def test_scores_that_are_not_finite(select):
    low, high, none = -math.inf, math.inf, math.nan
    scores = torch.tensor([none, 1.0, low, high, -5.0, none, high, low]).view(1, 1, 1, 8)
    ranking = [3, 6, 1, 4, 0, 2, 5, 7]  # NaN and −∞ alike are the lowest: the first ones count
    for count in range(1, 9):
        assert select(scores, ints(count), count)[0, 0, 0].tolist() == sorted(ranking[:count])


@pytest.mark.parametrize("keys", [20 * KEY_TILE, 20 * KEY_TILE - 45])
def test_the_rest_is_the_sum_over_all_tiles_that_are_not_listed(keys):
    scores = torch.randn(2, 3, 5, 20, generator=generator()) * 3.0
    v = torch.randn(2, keys, 3, 16, generator=generator(1))
    means = tile_means(v, KEY_TILE)
    tiles = select_tiles(scores, ints(4, 11, 19), 19, 1)
    before = tiles.clone(), scores.clone()
    rest = rest_of(scores, tiles, means)
    assert torch.equal(tiles, before[0])
    assert torch.equal(scores, before[1])
    assert rest.top.shape == (2, 3, 5)
    assert rest.value.shape == (2, 3, 5, 16)
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
        b, head, row = index
        others = sorted(set(range(20)) - set(tiles[b, head, row].tolist()))
        of_others = scores[b, head, row, others].double()
        assert rest.top[b, head, row].item() == pytest.approx(of_others.logsumexp(0).item(), abs=1e-5)
        expected = of_others.softmax(0) @ means[b, head, others].double()
        assert torch.allclose(rest.value[b, head, row].double(), expected, atol=1e-5)


def test_there_is_no_rest_where_all_tiles_are_listed():
    scores = torch.randn(1, 2, 3, 6, generator=generator())
    rest = rest_of(scores, select_tiles(scores, ints(6, 2), 6), torch.randn(1, 2, 6, 8))
    assert rest.top[:, 0].eq(-math.inf).all()
    assert rest.value[:, 0].eq(0.0).all()
    assert rest.top[:, 1].isfinite().all()
    assert not rest.value.isnan().any()


def test_tiles_of_no_weight_are_no_rest():
    """Scores of −∞ stand for tiles that nothing attends to."""
    scores = torch.tensor([2.0, 1.0, -math.inf, -math.inf]).view(1, 1, 1, 4)
    rest = rest_of(scores, ints(0, 1).view(1, 1, 1, 2), torch.ones(1, 1, 4, 8))
    assert rest.top.item() == -math.inf
    assert rest.value.eq(0.0).all()
