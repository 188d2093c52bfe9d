"""Attention over listed key tiles against its definition: tile by tile, in double precision."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from stand_ins import backend, own_folder  # noqa: F401

from astraea.kernels import Constraints, KeyTiles, Problem, attend_reference, selftest
from astraea.kernels.backends.cpu_key_tiles import BACKENDS, attend_listed
from astraea.kernels.key_tiles import KEY_TILE, QUERY_TILE, Orders, Rest
from astraea.kernels.selftest import LSE_TOLERANCE, OUTPUT_TOLERANCE

UNLISTED = torch.iinfo(torch.int32).max
RUNS = {"reference": attend_reference, "cpu-key-tiles": attend_listed}
CASES = [  # batch, queries, keys, heads, head size: why
    (1, 256, 256, 2, 64),  # whole tiles, as many queries as keys
    (2, 150, 331, 3, 64),  # ragged tiles on both sides, fewer queries than keys, two rows
    (1, 300, 500, 3, 128),  # the other head size
    (2, 1, 70, 3, 128),  # one query, a last tile of six keys
]
BY_RUN = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
BY_CASE = pytest.mark.parametrize("case", CASES, ids=str)


def tensors(case, dtype=torch.float32):
    batch, queries, keys, heads, dim = case
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, rows, heads, dim, generator=generator) for rows in (queries, keys, keys))
    q[:, ::5] *= 3.0  # some peaked rows
    return tuple(each.to(dtype) for each in (q, k + 0.5, v))


def lists_of(case, sizes=(QUERY_TILE, KEY_TILE), seed=1):
    """Lists of random tiles: the first head has all, the last has one, those between have half of them."""
    batch, queries, keys, heads, _ = case
    shape = (batch, heads, math.ceil(queries / sizes[0]), math.ceil(keys / sizes[1]))
    order = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).argsort(-1)
    counts = torch.full((heads,), max(1, shape[-1] // 2))
    counts[0], counts[-1] = shape[-1], 1
    listed = torch.arange(shape[-1]) < counts.view(1, heads, 1, 1)
    tiles = torch.where(listed, order, UNLISTED).sort(-1).values
    return KeyTiles(
        counts.view(1, heads, 1).expand(shape[:3]).to(torch.int32).contiguous(),
        tiles.to(torch.int32),
        query_tile=sizes[0],
        key_tile=sizes[1],
    )


def orders_of(case, count=3, by_row=False):
    """Make `count` random orders, and one for each head in turn. by_row: the queries' differ by row of the batch."""
    batch, queries, keys, heads, _ = case
    generator = torch.Generator().manual_seed(2)
    rows = batch if by_row else 1
    return Orders(
        torch.stack([torch.randperm(keys, generator=generator) for _ in range(count)]).to(torch.int32),
        torch.stack([torch.randperm(queries, generator=generator) for _ in range(count * rows)])
        .view(rows, count, queries)
        .to(torch.int32),
        torch.tensor([(head + 1) % count for head in range(heads)], dtype=torch.int32),
    )


def rest_for(lists, dim, top=0.7):
    generator = torch.Generator().manual_seed(3)
    shape = lists.counts.shape
    return Rest(torch.randn(shape, generator=generator) + top, torch.randn(*shape, dim, generator=generator))


def places(order, tile, size, count):
    """Return the rows of one tile, in an order or as they are."""
    whole = torch.arange(count) if order is None else order.long()
    return whole[tile * size : (tile + 1) * size]


def by_definition(q, k, v, scale, lists):
    """Compute output and log-sum-exp in float64, tile by tile, the term of the rest as one more key."""
    (batch, queries, heads, _), keys = q.shape, k.shape[1]
    out = torch.zeros(q.shape, dtype=torch.float64)
    lse = torch.full((batch, heads, queries), -math.inf, dtype=torch.float64)
    for b, h, tile in itertools.product(range(batch), range(heads), range(lists.counts.shape[2])):
        key_order = query_order = None
        if lists.orders is not None:
            number, own = int(lists.orders.of_head[h]), b % len(lists.orders.queries)
            key_order, query_order = lists.orders.keys[number], lists.orders.queries[own, number]
        rows = places(query_order, tile, lists.query_tile, queries)
        listed = lists.tiles[b, h, tile, : lists.counts[b, h, tile]].tolist()
        found = [places(key_order, each, lists.key_tile, keys) for each in listed]
        columns = torch.cat([*found, torch.empty(0, dtype=torch.int64)])
        scores = scale * q[b, rows, h].double() @ k[b, columns, h].double().T
        values = v[b, columns, h].double()
        if lists.rest is not None and lists.rest.top[b, h, tile] > -math.inf:
            scores = torch.cat([scores, lists.rest.top[b, h, tile].double().expand(len(rows), 1)], 1)
            values = torch.cat([values, lists.rest.value[b, h, tile].double().unsqueeze(0)])
        if scores.shape[1]:
            out[b, rows, h], lse[b, h, rows] = scores.softmax(-1) @ values, scores.logsumexp(-1)
    return out, lse


def assert_agrees(found, expected, dtype=torch.float32):
    out, lse = found
    assert out.shape == expected[0].shape
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    assert (out.double() - expected[0]).norm() <= OUTPUT_TOLERANCE[dtype] * expected[0].norm()
    empty = expected[1].isinf()
    assert torch.equal(lse.isneginf(), empty)
    assert (lse[~empty] - expected[1][~empty]).abs().max() <= LSE_TOLERANCE


@BY_RUN
@BY_CASE
@pytest.mark.parametrize("kind", ["plain", "orders", "rest", "all"])
def test_agrees_with_the_definition(run, case, kind):
    q, k, v = tensors(case)
    lists = lists_of(case)
    if kind in ("orders", "all"):
        lists = replace(lists, orders=orders_of(case, by_row=True))
    if kind in ("rest", "all"):
        lists = replace(lists, rest=rest_for(lists, case[-1]))
    expected = by_definition(q, k, v, 0.11, lists)
    assert_agrees(run(q, k, v, scale=0.11, need_lse=True, key_tiles=lists), expected)
    out, lse = run(q, k, v, scale=0.11, need_lse=False, key_tiles=lists)
    assert lse is None
    assert torch.equal(out, run(q, k, v, scale=0.11, need_lse=True, key_tiles=lists)[0])


@BY_RUN
@pytest.mark.parametrize("sizes", [(32, 16), (16, 64), (256, 32)], ids=str)
def test_tiles_of_other_sizes(run, sizes):
    q, k, v = tensors(CASES[1])
    lists = replace(lists_of(CASES[1], sizes), orders=orders_of(CASES[1]))
    lists = replace(lists, rest=rest_for(lists, 64))
    assert lists.has_usual_sizes is False
    found = run(q, k, v, scale=0.125, need_lse=True, key_tiles=lists)
    assert_agrees(found, by_definition(q, k, v, 0.125, lists))


@BY_RUN
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_single(run, dtype):
    q, k, v = tensors(CASES[1], dtype)
    lists = replace(lists_of(CASES[1]), orders=orders_of(CASES[1]))
    lists = replace(lists, rest=rest_for(lists, 64))
    found = run(q, k, v, scale=0.125, need_lse=True, key_tiles=lists)
    assert_agrees(found, by_definition(q, k, v, 0.125, lists), dtype)


@BY_CASE
def test_all_tiles_without_orders_are_dense_attention(case):
    q, k, v = tensors(case)
    shape = lists_of(case).tiles.shape
    lists = KeyTiles.from_mask(torch.ones(shape, dtype=torch.bool))
    dense, dense_lse = attend_reference(q, k, v)
    out, lse = attend_reference(q, k, v, key_tiles=lists)
    assert torch.equal(out, dense)
    assert torch.equal(lse, dense_lse)
    out, lse = attend_listed(q, k, v, scale=case[-1] ** -0.5, need_lse=True, key_tiles=lists)
    assert torch.allclose(out, dense, atol=2e-6)
    assert torch.allclose(lse, dense_lse, atol=1e-5)


@BY_RUN
def test_orders_are_the_same_as_rows_permuted_outside(run):
    case = CASES[1]
    (q, k, v), orders, plain = tensors(case), orders_of(case), lists_of(case)
    assert len(set(orders.of_head.tolist())) == 3
    out, lse = run(q, k, v, scale=0.125, need_lse=True, key_tiles=replace(plain, orders=orders))
    for head in range(case[3]):
        rows, keys = orders.queries_of_heads()[0, head], orders.keys_of_heads()[head]
        one = slice(head, head + 1)
        lists = KeyTiles(plain.counts[:, one], plain.tiles[:, one])
        permuted = (q[:, rows, one], k[:, keys, one], v[:, keys, one])
        expected, expected_lse = run(*permuted, scale=0.125, need_lse=True, key_tiles=lists)
        assert torch.allclose(out[:, rows, head], expected[:, :, 0], atol=2e-6)
        assert torch.allclose(lse[:, head][:, rows], expected_lse[:, 0], atol=1e-5)
    other = replace(orders, of_head=orders.of_head.roll(1))
    assert not torch.allclose(run(q, k, v, scale=0.125, need_lse=False, key_tiles=replace(plain, orders=other))[0], out)


@BY_RUN
def test_a_rest_is_the_same_as_a_merge_outside(run):
    q, k, v = tensors(CASES[1])
    lists = replace(lists_of(CASES[1]), orders=orders_of(CASES[1]))
    rest = rest_for(lists, 64)
    own, own_lse = run(q, k, v, scale=0.125, need_lse=True, key_tiles=lists)
    found, found_lse = run(q, k, v, scale=0.125, need_lse=True, key_tiles=replace(lists, rest=rest))
    tile = orders_inverse(lists.orders) // QUERY_TILE  # of each query, by head
    top = rest.top.gather(2, tile.expand(2, -1, -1))
    value = rest.value.take_along_dim(tile.unsqueeze(-1).expand(2, -1, -1, 64), 2)
    total = torch.logaddexp(own_lse, top)
    merged = own.transpose(1, 2) * (own_lse - total).exp().unsqueeze(-1) + value * (top - total).exp().unsqueeze(-1)
    assert torch.allclose(found.transpose(1, 2), merged, atol=5e-6)
    assert torch.allclose(found_lse, total, atol=1e-5)


def orders_inverse(orders):
    rows = orders.queries_of_heads()
    return torch.empty_like(rows).scatter_(-1, rows, torch.arange(rows.shape[-1]).expand_as(rows))


@BY_RUN
@pytest.mark.parametrize("in_orders", [False, True], ids=["as they are", "in orders"])
@pytest.mark.parametrize("rest", [None, -math.inf, 0.5], ids=["no rest", "an empty rest", "a rest"])
def test_empty_lists(run, in_orders, rest):
    case = (2, 150, 331, 3, 64)
    q, k, v = tensors(case)
    lists = lists_of(case)
    counts = lists.counts.clone()
    counts[0, 1], counts[1, :, 1] = 0, 0
    lists = replace(lists, counts=counts, orders=orders_of(case) if in_orders else None)
    if rest is not None:
        lists = replace(lists, rest=Rest(torch.full(counts.shape, rest), torch.randn(*counts.shape, 64)))
    out, lse = run(q, k, v, scale=0.125, need_lse=True, key_tiles=lists)
    expected = by_definition(q, k, v, 0.125, lists)
    assert not out.isnan().any()
    assert not lse.isnan().any()
    assert_agrees((out, lse), expected)
    empty = expected[1].isneginf()
    assert empty.any() == (rest is None or rest == -math.inf)
    assert out.transpose(1, 2)[empty].eq(0).all()


@BY_RUN
def test_the_same_bits_twice_and_inputs_as_they_were(run):
    given = tensors(CASES[1])
    lists = replace(lists_of(CASES[1]), orders=orders_of(CASES[1]))
    lists = replace(lists, rest=rest_for(lists, 64))
    before = [each.clone() for each in (*given, *lists.tensors())]
    first, second = (run(*given, scale=0.125, need_lse=True, key_tiles=lists) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, (*given, *lists.tensors()), before))


@BY_RUN
def test_strides_do_not_matter(run):
    q, k, v = tensors(CASES[1])
    lists = replace(lists_of(CASES[1]), orders=orders_of(CASES[1]))
    strided = [each.transpose(1, 2).contiguous().transpose(1, 2) for each in (q, k, v)]
    out = run(*strided, scale=0.125, need_lse=False, key_tiles=lists)[0]
    assert torch.allclose(out, run(q, k, v, scale=0.125, need_lse=False, key_tiles=lists)[0], atol=2e-6)


def test_lists_as_tensors_and_back():
    case = CASES[1]
    plain = lists_of(case, (32, 16))
    rich = replace(plain, orders=orders_of(case))
    rich = replace(rich, rest=rest_for(rich, 64))
    for lists in (plain, replace(plain, orders=rich.orders), replace(plain, rest=rich.rest), rich):
        back = KeyTiles.from_tensors(lists.tensors(), (32, 16))
        assert len(lists.tensors()) == 7
        assert all(one is other for one, other in zip(back.tensors(), lists.tensors(), strict=True))
        assert (back.orders is None, back.rest is None) == (lists.orders is None, lists.rest is None)
        assert (back.query_tile, back.key_tile) == (32, 16)
    assert KeyTiles.from_tensors((None,) * 7, (128, 64)) is None


def test_the_mask_of_tokens_is_that_of_places_in_the_heads_orders():
    case = CASES[1]
    plain = lists_of(case)
    lists = replace(plain, orders=orders_of(case, by_row=True))
    by_place, by_token = lists.mask(150, 331), lists.token_mask(150, 331)
    assert torch.equal(plain.token_mask(150, 331), by_place)
    for b, head in itertools.product(range(2), range(3)):
        rows, keys = lists.orders.queries_of_heads()[b, head], lists.orders.keys_of_heads()[head]
        assert torch.equal(by_token[b, head][rows][:, keys], by_place[b, head])
    assert not torch.equal(by_token[:, 1], by_place[:, 1])
    assert by_token[:, 0].all()


def test_a_mask_of_tiles_becomes_lists_and_back():
    mask = torch.rand(2, 3, 4, 9, generator=torch.Generator().manual_seed(4)) < 0.4
    mask[0, 0, 0] = False
    lists = KeyTiles.from_mask(mask)
    assert torch.equal(lists.counts.long(), mask.sum(-1))
    assert torch.equal(lists.tile_mask(9 * 64 - 5), mask)
    for index in itertools.product(range(2), range(3), range(4)):
        assert lists.tiles[index][: lists.counts[index]].tolist() == mask[index].nonzero().flatten().tolist()


def without_orders(q, k, v, *, scale, need_lse, key_tiles):
    return attend_listed(q, k, v, scale=scale, need_lse=need_lse, key_tiles=replace(key_tiles, orders=None))


def all_keys(q, k, v, *, scale, need_lse, key_tiles):
    return attend_reference(q, k, v, scale=scale, need_lse=need_lse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [64, 128])
def test_the_self_test_with_lists(dtype, dim):
    problem = Problem(torch.device("cpu"), dtype, 1, 300, 600, 2, dim, key_tiles=True)
    assert BACKENDS[0].name == "cpu-key-tiles"
    assert BACKENDS[0].unsupported_reason(problem) == ""
    assert selftest.check(BACKENDS[0], problem).reason == ""
    for run in (without_orders, all_keys):
        wrong = backend("wrong", run, constraints=Constraints(key_tiles=True))
        assert "its output is off" in selftest.check(wrong, problem).reason
    assert "tiles" in BACKENDS[0].unsupported_reason(replace(problem, key_tiles=False))
