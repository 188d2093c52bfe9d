"""Orders of a video's tokens, the rows of a call around them, and other plain data: the plan and a run's figures."""

from __future__ import annotations

import itertools
from math import prod

import pytest
import torch

from astraea.engine.blocks.interface import TokenLayout
from astraea.engine.sparse.call import TileCall
from astraea.engine.sparse.layout import QueryParts, RowLayout, query_parts, row_layout
from astraea.engine.sparse.orders import (
    CUBES,
    PLACE,
    RASTER,
    SPREAD,
    by_place,
    cube_edges,
    in_cubes,
    inverse,
    raster,
    spread,
    token_orders,
)

CPU = torch.device("cpu")
GRIDS = [(1, 1, 1), (1, 7, 5), (6, 16, 16), (21, 30, 52), (3, 5, 7), (13, 1, 9), (2, 17, 33)]
BY_GRID = pytest.mark.parametrize("grid", GRIDS, ids=str)
MAKERS = {"raster": raster, "place": by_place, "cubes": lambda grid: in_cubes(grid, 64), "spread": spread}


def index_of(tokens, grid):
    """Frame, row and column of each token, `[n, 3]`."""
    _, height, width = grid
    return torch.stack([tokens // (height * width), tokens // width % height, tokens % width], -1)


@BY_GRID
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_order_has_every_token_once_and_its_inverse_undoes_it(make, grid):
    order = make(grid)
    everything = torch.arange(prod(grid))
    assert torch.equal(order.sort().values, everything)
    assert torch.equal(inverse(order)[order], everything)
    assert torch.equal(order[inverse(order)], everything)


def test_places_of_many_orders_at_once():
    orders = torch.stack([by_place((3, 4, 5)), spread((3, 4, 5))])
    assert torch.equal(inverse(orders), torch.stack([inverse(each) for each in orders]))
    assert inverse(orders.to(torch.int32)).dtype == torch.int64


@BY_GRID
def test_by_place_the_frames_of_a_place_lie_together(grid):
    found = index_of(by_place(grid), grid).view(grid[1], grid[2], grid[0], 3)
    for frame in range(grid[0]):
        assert found[:, :, frame, 0].eq(frame).all()
    assert torch.equal(found[..., 1], torch.arange(grid[1]).view(-1, 1, 1).expand(found.shape[:3]))
    assert torch.equal(found[..., 2], torch.arange(grid[2]).view(-1, 1).expand(found.shape[:3]))


@BY_GRID
def test_spread_has_a_checkerboard_in_its_first_half_and_diagonals_in_its_first_quarter(grid):
    order = spread(grid)
    index = index_of(torch.arange(prod(grid)), grid)
    diagonal = index[:, 1] - index[:, 2]
    for every in (2, 4, 8, 16):
        wanted = (diagonal % every == 0).nonzero().flatten()
        assert torch.equal(order[: len(wanted)].sort().values, wanted)


@pytest.mark.parametrize("grid", [(6, 16, 16), (5, 30, 52), (3, 9, 7)], ids=str)
def test_any_first_part_of_spread_is_even(grid):
    """All diagonals but one are in or out as wholes; those within lie evenly; frames differ by one diagonal at most."""
    order, index = spread(grid), index_of(spread(grid), grid)
    diagonal = (index[:, 1] - index[:, 2]) % 16
    whole = torch.bincount(diagonal, minlength=16)
    most_in_frame = torch.bincount(diagonal[index[:, 0] == 0], minlength=16).max()
    for count in range(1, len(order), 7):
        taken = torch.bincount(diagonal[:count], minlength=16)
        partial = (taken > 0) & (taken < whole)
        assert partial.sum() <= 1
        by_frame = torch.bincount(index[:count, 0], minlength=grid[0])
        assert by_frame.max() - by_frame.min() <= most_in_frame
        within = (taken > 0).nonzero().flatten()
        if whole.min() > 0 and len(within) > 1:
            gaps = torch.cat([within, within[:1] + 16]).diff()
            assert gaps.max() <= 2 * gaps.min()


@pytest.mark.parametrize(
    ("grid", "size", "edges"),
    [
        ((21, 30, 52), 64, (4, 4, 4)),
        ((6, 16, 16), 16, (2, 2, 4)),
        ((1, 45, 80), 64, (1, 8, 8)),
        ((1, 30, 52), 64, (1, 8, 8)),
        ((5, 30, 52), 64, (4, 4, 4)),
        ((3, 30, 52), 64, (1, 8, 8)),  # two frames together would leave one of 3 over
        ((2, 3, 3), 64, (2, 1, 1)),
        ((1, 1, 9), 8, (1, 1, 8)),
    ],
)
def test_edges_of_a_cube(grid, size, edges):
    assert cube_edges(grid, size) == edges


@pytest.mark.parametrize(
    ("grid", "size"), [((21, 30, 52), 64), ((6, 16, 16), 16), ((1, 30, 52), 64), ((5, 9, 9), 8), ((13, 17, 33), 64)]
)
def test_cubes_are_compact(grid, size):
    edges = torch.tensor(cube_edges(grid, size))
    assert int(edges.prod()) == size
    cubes = prod(side // int(edge) for side, edge in zip(grid, edges, strict=True))
    assert cubes > 1
    found = index_of(in_cubes(grid, size), grid)
    whole = found[: cubes * size].view(cubes, size, 3)
    corner, far = whole.amin(1), whole.amax(1)
    assert torch.equal(far - corner, (edges - 1).expand(cubes, 3))
    assert (corner % edges).eq(0).all()
    assert len(corner.unique(dim=0)) == cubes
    over = found[cubes * size :]
    at_edge = over // edges >= torch.tensor([side // int(edge) for side, edge in zip(grid, edges, strict=True)])
    assert at_edge.any(-1).all()


def test_a_grid_that_holds_no_cube_is_cut_into_smaller_ones():
    assert torch.equal(in_cubes((1, 3, 3), 64), raster((1, 3, 3)))
    assert cube_edges((21, 7, 7), 64) == (4, 2, 2)  # 6 of 7 rows and columns
    assert index_of(in_cubes((21, 7, 7), 64)[:16], (21, 7, 7)).amax(0).tolist() == [3, 1, 1]


# --- rows of a call -------------------------------------------------------------------------------------------

GRID = (4, 10, 10)
ROW_LAYOUTS = [  # what the blocks hold, keys of the call, expected: why
    (TokenLayout(400, grid=GRID), 400, RowLayout(400, 0, 0, GRID)),  # all are the video's
    (TokenLayout(400, 30, 20, GRID), 450, RowLayout(450, 30, 20, GRID)),  # others at known ends
    (TokenLayout(400, 30, 20, GRID, True), 520, RowLayout(520, 30, 90, GRID)),  # 70 more join behind
    (TokenLayout(400, 0, 0, GRID), 450, RowLayout(450, 50, 50)),  # 50 more join at an unknown end
    (TokenLayout(400, 10, 5, GRID), 450, RowLayout(450, 45, 40)),  # the same, beside known ones
    (TokenLayout(400), 400, RowLayout(400)),  # no grid is known
    (TokenLayout(400, grid=(4, 10, 11)), 400, RowLayout(400)),  # a grid that does not fit
    (TokenLayout(400, grid=GRID), 300, None),  # fewer than there are
    (TokenLayout(400, grid=GRID), 900, None),  # more others than video: nothing is known
    (TokenLayout(400, 300, 200, GRID), 900, None),  # half of the rows are not the video's
    (TokenLayout(400, 0, 0, GRID, True), 799, RowLayout(799, 0, 399, GRID)),
    (TokenLayout(400, 0, 0, GRID), 600, None),  # as many spared at both ends as would be left
    (TokenLayout(0), 0, None),
]


@pytest.mark.parametrize(("layout", "rows", "expected"), ROW_LAYOUTS)
def test_rows_of_a_call(layout, rows, expected):
    assert row_layout(rows, layout) == expected


def test_the_first_frame_becomes_one_of_the_others():
    layout = RowLayout(450, 30, 20, GRID).with_first_frame_dense()
    assert layout == RowLayout(450, 130, 20, (3, 10, 10))
    assert layout.sparse == 300
    for same in (RowLayout(450, 30, 20), RowLayout(100, grid=(1, 10, 10))):
        assert same.with_first_frame_dense() is same


def test_queries_of_a_full_call():
    rows = RowLayout(450, 130, 20, (3, 10, 10))
    parts = query_parts(rows, RowLayout(450, 30, 20, GRID), 450, None)
    assert parts == QueryParts(130, 20, 450)
    assert parts.sparse == slice(130, 430)


def test_queries_of_a_call_of_selected_tokens():
    own = RowLayout(450, 30, 20, GRID)
    selected = torch.arange(30, 430, 4).unsqueeze(0)
    parts = query_parts(own.with_first_frame_dense(), own, 150, selected)
    assert (parts.before, parts.after, parts.count) == (30, 20, 150)
    assert parts.sparse == slice(30, 130)
    assert parts.selected is selected
    assert query_parts(own, own, 150, None) is None
    assert query_parts(own, own, 149, selected) is None
    assert query_parts(own, own, 450, selected).selected is None  # as many queries as keys: all rows


@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 0), (0, 2), (3, 2)])
def test_parts_are_joined_in_the_order_of_the_queries(before, after):
    q = torch.randn(1, 12, 1, 1)
    parts = QueryParts(before, after, 12)
    joined = parts.join(q[:, parts.sparse] * 2.0, q, lambda part: -part)
    expected = q * 2.0
    expected[:, :before], expected[:, 12 - after :] = -q[:, :before], -q[:, 12 - after :]
    assert torch.equal(joined, expected)


# --- orders of a call's rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        (GRID, (RASTER, PLACE, CUBES, SPREAD)),
        ((1, 20, 20), (RASTER, CUBES, SPREAD)),  # in one frame each place has one token
        (None, (RASTER,)),
    ],
)
@pytest.mark.parametrize(("before", "after"), [(0, 0), (30, 0), (0, 20), (30, 20)])
def test_others_come_last_in_every_order(grid, names, before, after):
    rows = before + 400 + after
    orders = token_orders(RowLayout(rows, before, after, grid), 16, CPU)
    assert orders.names == names
    assert orders.keys.dtype == torch.int32
    others = torch.cat([torch.arange(before), torch.arange(before + 400, rows)])
    for name, keys, places in zip(orders.names, orders.keys.long(), orders.places, strict=True):
        assert torch.equal(keys[400:], others), name
        assert torch.equal(keys[:400].sort().values, torch.arange(before, before + 400)), name
        assert torch.equal(places[keys], torch.arange(rows)), name
    expected = {RASTER: raster, PLACE: by_place, CUBES: lambda grid: in_cubes(grid, 16), SPREAD: spread}
    for name, keys in zip(orders.names, orders.keys.long(), strict=True):
        assert torch.equal(keys[:400] - before, expected[name](grid or (1, 1, 400))), name


def test_selected_queries_lie_in_the_order_of_the_tokens():
    layout = RowLayout(450, 30, 20, GRID)
    orders = token_orders(layout, 16, CPU)
    generator = torch.Generator().manual_seed(0)
    selected = torch.stack([torch.randperm(400, generator=generator)[:90].sort().values + 30 for _ in range(2)])
    call = TileCall.of(layout, orders, 32, 16, selected)
    assert call.query_count == 90
    assert call.queries.shape == (2, 4, 90)
    assert call.centres.shape == (2, 4, 3)
    assert not call.is_full
    for row, number in itertools.product(range(2), range(4)):
        tokens = selected[row][call.queries[row, number].long()]
        places = orders.places[number][tokens]
        assert places.diff().gt(0).all()
        means = torch.stack([part.double().mean() for part in places.split(32)])
        assert torch.allclose(call.centres[row, number].double(), (means + 0.5) / 16)
    full = TileCall.of(layout, orders, 32, 16)
    everything = TileCall.of(layout, orders, 32, 16, torch.arange(30, 430).unsqueeze(0))
    assert torch.equal(full.queries, everything.queries)
    assert torch.equal(full.centres, everything.centres)


@pytest.mark.parametrize(
    ("layout", "forced"),
    [(RowLayout(448), 0), (RowLayout(450), 0), (RowLayout(450, 2, 0), 1), (RowLayout(450, 30, 20), 4)],
)
def test_tiles_with_other_rows_are_forced(layout, forced):
    call = TileCall.of(layout, token_orders(layout, 16, CPU), 32, 16)
    assert call.key_tiles == -(-layout.rows // 16)
    assert call.forced == forced
    first_other = call.key_tiles - forced
    for keys in call.orders.keys:
        is_other = (keys < layout.before) | (keys >= layout.rows - layout.after)
        assert not is_other[: first_other * 16].any()
        assert forced == 0 or is_other[first_other * 16 :].any()
    assert call.count(0.01) == forced + 1
    assert call.count(0.5) == forced + -(-(call.key_tiles - forced) // 2)
    assert call.count(1.0) == call.key_tiles
