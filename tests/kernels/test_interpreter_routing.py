"""The Triton kernels of routing, interpreted on the CPU, give what their definitions in plain torch give."""

from __future__ import annotations

import math
import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 from the start: python dev.py test --tier kernels", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed: its kernels were not tested")

from triton_problems import poisoned

from astraea.kernels import routing, routing_reference
from astraea.kernels.triton_attention import routing_kernels

CPU = torch.device("cpu")
SPECIAL = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-42, -1e-42, 3.4e38, -3.4e38])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def rows_of(kind, generator, count):
    """Make `rows` of `tile_means`: for all heads together, for each head, or for each batch and head."""
    shape = {"one": (1, 1), "heads": (1, 3), "all": (2, 3)}[kind]
    return torch.rand(*shape, count, generator=generator).argsort(-1).to(torch.int32)


# --- means of tiles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, "one", "heads", "all"])
@pytest.mark.parametrize("tile", routing_kernels.POOLED_TILES)
@pytest.mark.parametrize(
    ("count", "dim", "dtype"),
    [
        (256, 64, torch.float16),  # whole tiles
        (300, 128, torch.float16),  # a ragged last tile
        (257, 64, torch.float32),  # one row in it
        (40, 80, torch.bfloat16),  # less than a tile; not a power of two
    ],
    ids=str,
)
def test_means_agree_with_their_definition(generator, count, dim, dtype, tile, rows):
    x = torch.randn(2, count, 3, dim, generator=generator).to(dtype)
    rows = rows and rows_of(rows, generator, count)
    assert routing_kernels.can_pool(x, tile)
    means = routing.tile_means(x, tile, rows)
    expected = routing_reference.tile_means_reference(x, tile, rows)
    assert means.dtype == torch.float32
    assert means.shape == expected.shape
    assert torch.allclose(means, expected, rtol=0, atol=1e-6)


def test_means_of_rows_of_any_strides_without_memory_around(generator):
    x = torch.randn(2, 200, 3, 64, generator=generator)
    rows = rows_of("heads", generator, 200)
    expected = routing_kernels.tile_means(x, 64, rows)
    packed = torch.stack([x, x + 1.0], 2)[:, :, 0]
    heads_first = x.transpose(1, 2).contiguous().transpose(1, 2)
    odd = torch.nn.functional.pad(x, (3, 4))[..., 3:-4]
    for same in (packed, heads_first, odd, poisoned(x)):
        assert torch.equal(routing_kernels.tile_means(same, 64, rows), expected)
    columns = rows.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(routing_kernels.tile_means(x, 64, columns), expected)


def test_other_rows_and_tiles_take_the_definition():
    x = torch.zeros(1, 100, 2, 64)
    assert routing_kernels.can_pool(x, 64)
    assert not routing_kernels.can_pool(x, 32)
    assert not routing_kernels.can_pool(x.double(), 64)
    assert not routing_kernels.can_pool(x.transpose(1, 3), 64)
    assert not routing_kernels.can_pool(x[:, :0], 64)
    assert not routing_kernels.can_pool(x.to("meta"), 64)
    assert routing.tile_means(x, 32).shape == (1, 2, 4, 64)


# --- selection --------------------------------------------------------------------------------------------------


def scores_of(kind, tiles, generator):
    scores = torch.randn(1, 3, 2, tiles, generator=generator)
    if kind == "ties":
        return scores.round()
    if kind == "special":
        return SPECIAL[torch.randint(len(SPECIAL), scores.shape, generator=generator)]
    if kind == "equal":
        return torch.zeros_like(scores)
    return scores


@pytest.mark.parametrize("kind", ["random", "ties", "special", "equal"])
@pytest.mark.parametrize("tiles", [1, 2, 65, 300, 700])
def test_lists_equal_their_definition(generator, tiles, kind):
    scores = scores_of(kind, tiles, generator)
    for forced in {0, 1, min(3, tiles)}:
        for wanted in ([1, tiles // 3, tiles], [tiles // 2, 1, 2]):
            counts = torch.tensor([max(min(each, tiles), forced, 1) for each in wanted], dtype=torch.int32)
            length = int(counts.max())
            assert routing_kernels.can_select(scores, routing.MAX_TILES_IN_KERNEL)
            lists = routing.select_tiles(scores, counts, length, forced)
            expected = routing_reference.select_tiles_reference(scores, counts, length, forced)
            assert lists.dtype == torch.int32
            assert torch.equal(lists, expected)


def test_lists_have_the_length_that_is_asked_for(generator):
    scores = torch.randn(1, 2, 3, 40, generator=generator)
    counts = torch.tensor([5, 0], dtype=torch.int32)
    lists = routing_kernels.select_tiles(scores, counts, 12, 0)
    assert lists.shape == (1, 2, 3, 12)
    assert torch.equal(lists, routing_reference.select_tiles_reference(scores, counts, 12, 0))
    assert (lists[:, 0, :, 5:] == routing_reference.UNLISTED).all()
    assert (lists[:, 1] == routing_reference.UNLISTED).all()


def test_equal_scores_list_the_first_tiles():
    scores = torch.zeros(1, 1, 1, 9)
    lists = routing_kernels.select_tiles(scores, torch.tensor([4], dtype=torch.int32), 4, 1)
    assert lists.flatten().tolist() == [0, 1, 2, 8]
    mixed = torch.tensor([[[[0.0, -0.0, math.nan, -math.inf, -0.0]]]])
    lists = routing_kernels.select_tiles(mixed, torch.tensor([4], dtype=torch.int32), 4, 0)
    assert lists.flatten().tolist() == [0, 1, 2, 4]


def test_scores_of_any_strides_work(generator):
    scores = torch.randn(2, 3, 4, 50, generator=generator)
    counts = torch.tensor([3, 20, 50, 9], dtype=torch.int32)[::2]
    part = scores[:, 1:, ::2, 3:]
    lists = routing.select_tiles(part, counts.clamp(max=47), 47)
    assert torch.equal(lists, routing_reference.select_tiles_reference(part, counts.clamp(max=47), 47))


def test_other_scores_take_the_definition():
    scores = torch.zeros(1, 2, 3, 20)
    assert routing_kernels.can_select(scores, 20)
    assert not routing_kernels.can_select(scores, 19)
    assert not routing_kernels.can_select(scores.double(), 20)
    assert not routing_kernels.can_select(scores[:, :, :0], 20)
    assert not routing_kernels.can_select(scores.to("meta"), 20)


# --- trials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raises", "wrong"])
def test_kernels_that_fail_their_trial_are_not_used(monkeypatch, caplog, how):
    def select_tiles(scores, counts, length, forced):
        if how == "raises":
            raise RuntimeError("no C compiler")
        return torch.zeros(*scores.shape[:-1], length, dtype=torch.int32)

    monkeypatch.setattr(routing_kernels, "_works", {})
    monkeypatch.setattr(routing_kernels, "select_tiles", select_tiles)
    assert not routing_kernels.works_on(CPU)
    assert not routing_kernels.can_pool(torch.zeros(1, 100, 2, 64), 64)
    assert len(caplog.records) == 1
    assert ("no C compiler" if how == "raises" else "other tiles are selected") in caplog.text
