"""Attention inside torch.compile: one operator, whose fake gives the right shapes, and the same numbers as outside."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from astraea.kernels import KeyTiles, attend
from astraea.kernels.custom_op import NO_LISTS, _operator
from astraea.kernels.key_tiles import Orders, Rest

GENERATOR = torch.Generator().manual_seed(0)


def tensors(queries=48, keys=130):
    return tuple(torch.randn(2, rows, 2, 64, generator=GENERATOR) for rows in (queries, keys, keys))


def tiles(queries=48, keys=130):
    return KeyTiles.from_mask(torch.rand(2, 2, -(-queries // 128), -(-keys // 64), generator=GENERATOR) < 0.7)


def in_orders(queries=48, keys=130):
    """Lists in two orders of tokens, with a term for the rest."""
    shuffled = (torch.randperm(count, generator=GENERATOR).to(torch.int32) for count in (keys, queries))
    orders = Orders(next(shuffled)[None], next(shuffled)[None, None], torch.zeros(2, dtype=torch.int32))
    rest = Rest(torch.zeros(2, 2, 1), torch.randn(2, 2, 1, 64, generator=GENERATOR))
    return replace(tiles(queries, keys), orders=orders, rest=rest)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("need_lse", [False, True], ids=["out", "lse"])
@pytest.mark.parametrize("lists", [lambda: None, tiles, in_orders], ids=["dense", "key tiles", "in orders"])
def test_compiled_as_one_graph_with_the_same_result(need_lse, lists):
    key_tiles = lists()

    def layer(q, k, v):
        out, lse = attend(q * 2.0, k, v, need_lse=need_lse, key_tiles=key_tiles)
        return (out.relu(), lse)

    q, k, v = tensors()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(q, k, v), layer(q, k, v), strict=True):
        assert (found is None) == (expected is None)
        assert found is None or torch.equal(found, expected)


def test_other_numbers_of_selected_rows_compile_once_for_all():
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda q, k, v: attend(q, k, v)[0], fullgraph=True, backend=counter)
    for queries in (16, 32, 48, 64, 80):
        q, k, v = tensors(queries)
        assert torch.equal(compiled(q, k, v), attend(q, k, v)[0])
    assert counter.frame_count <= 2  # once for the first number of rows, once for any


@pytest.mark.parametrize("need_lse", [False, True], ids=["out", "lse"])
def test_the_operator_passes_the_checks_of_torch(need_lse):
    q, k, v = tensors()
    rest = ("auto", NO_LISTS, (128, 64))
    torch.library.opcheck(_operator, (q, k, v, 0.125, need_lse, *rest))
    packed = torch.randn(2, 130, 3, 2, 64, generator=GENERATOR)
    torch.library.opcheck(_operator, (packed[:, :48, 0], packed[:, :, 1], packed[:, :, 2], 0.125, need_lse, *rest))
    torch.library.opcheck(_operator, (q, k, v, 0.125, need_lse, "auto", tiles().tensors(), (128, 64)))
    torch.library.opcheck(_operator, (q, k, v, 0.125, need_lse, "auto", in_orders().tensors(), (128, 64)))
