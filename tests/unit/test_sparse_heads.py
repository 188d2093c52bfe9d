"""Choices of heads: the candidate of the least measured error, and the lists of tiles that follow from it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from astraea.engine.sparse.call import TileCall
from astraea.engine.sparse.candidates import (
    CANDIDATES,
    PATTERNS,
    ROUTING,
    SPATIAL,
    TEMPORAL,
    TEXTURAL,
    HeadChoice,
    TileProblem,
    pattern_lists,
)
from astraea.engine.sparse.layout import RowLayout
from astraea.engine.sparse.methods import LEVELS, choose_as_rainfusion, choose_by_error, choose_routing, layout_of
from astraea.engine.sparse.orders import RASTER, token_orders
from astraea.engine.sparse.plan import SparsePlan
from astraea.engine.sparse.probe import output_errors, sampled_rows
from astraea.kernels import attend_reference
from astraea.kernels.backends.cpu_key_tiles import attend_listed
from astraea.kernels.key_tiles import KeyTiles

CPU = torch.device("cpu")
GRID, DIM = (6, 16, 16), 64
TOKENS = math.prod(GRID)
SCALE = DIM**-0.5
SIZES = (32, 16)
INDEX = torch.stack(torch.meshgrid(*map(torch.arange, GRID), indexing="ij"), -1).view(-1, 3)
PLACES = INDEX[:, 1] * GRID[2] + INDEX[:, 2]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call_of(layout=None, sizes=SIZES, selected=None):
    layout = layout or RowLayout(TOKENS, grid=GRID)
    return TileCall.of(layout, token_orders(layout, sizes[1], CPU), *sizes, selected)


def built_heads():
    """Three heads: one attends to its frame, one to its place, one to all tokens alike.

    Half of the tokens have the opposite sign, so that means of tiles tell little.
    """
    signs = random(TOKENS, 1).sign()
    of_frame = torch.nn.functional.normalize(random(GRID[0], DIM, seed=1), dim=-1)[INDEX[:, 0]] * signs * 12.0
    of_place = torch.nn.functional.normalize(random(256, DIM, seed=2), dim=-1)[PLACES] * signs * 14.0
    q = torch.stack([of_frame, of_place, random(TOKENS, DIM, seed=3) * 0.1], 1)
    k = torch.stack([of_frame, of_place, random(TOKENS, DIM, seed=4)], 1)
    ramp = (INDEX / torch.tensor(GRID) - 0.5) @ random(3, DIM, seed=5) * 2.0 + 1.0
    v = torch.stack([random(TOKENS, DIM, seed=6) + ramp, random(TOKENS, DIM, seed=7), ramp], 1)
    return q[None], k[None], v[None]


def smooth_heads(heads=4, batch=1, gain=0.25, seed=0):
    """Heads whose queries and keys change slowly over the grid: means of tiles tell much."""
    tensors = []
    place = INDEX / torch.tensor(GRID)
    for number in range(2):  # queries, keys
        waves = [
            torch.cat([(place @ random(3, DIM // 2, seed=9 * seed + each) * 5.0).sin_(), (place * 9.0).cos()], -1)
            for each in range(batch * heads)
        ]
        basis = [random(DIM // 2 + 3, DIM, seed=99 + each) * gain for each in range(batch * heads)]
        rows = torch.stack([wave @ own for wave, own in zip(waves, basis, strict=True)], 1)
        rows = rows.view(TOKENS, batch, heads, DIM).transpose(0, 1)
        tensors.append(rows + 0.5 * random(batch, TOKENS, heads, DIM, seed=7 + number))
    return (*tensors, random(batch, TOKENS, heads, DIM, seed=5) + tensors[1])


def problem_of(tensors, call=None):
    return TileProblem(call or call_of(), *tensors, SCALE)


def relative_errors(found, exact):
    """Return errors by head, of `[B, M, H, D]`."""
    return ((found - exact).square().sum((0, 1, 3)) / exact.square().sum((0, 1, 3))).sqrt()


ROWS = sampled_rows(TOKENS, 0, CPU)


@pytest.mark.parametrize("sizes", [SIZES, (128, 64)], ids=str)
@pytest.mark.parametrize("density", [0.25, 0.5])
def test_a_head_takes_the_candidate_that_it_was_built_for(sizes, density):
    problem = problem_of(built_heads(), call_of(sizes=sizes))
    plan = SparsePlan(density=density, limit=0.0)
    choice = choose_by_error(problem, ROWS, plan)
    built_for = (SPATIAL, TEMPORAL, TEXTURAL)
    assert [each.order for each in choice.candidates] == [each.order for each in built_for]
    if sizes == SIZES:  # a large tile of places also finds its own by its mean
        assert choice.candidates == built_for
    assert choice.densities == (density,) * 3
    over_all = output_errors(problem, torch.arange(TOKENS), [(each, density) for each in CANDIDATES])
    assert torch.allclose(over_all.min(0).values, over_all[[3, 4, 5], [0, 1, 2]], atol=1e-5)
    least = output_errors(problem, ROWS, [(each, density) for each in CANDIDATES]).min(0).values
    assert choice.errors == pytest.approx(least.tolist(), rel=1e-3, abs=1e-6)
    assert choose_routing(problem, ROWS, plan).candidates == (ROUTING,) * 3


@pytest.mark.parametrize("seed", range(3))
def test_the_error_on_sampled_rows_is_near_that_over_all_rows(seed):
    problem = problem_of(smooth_heads(gain=0.2, seed=seed))
    rows = sampled_rows(TOKENS, seed, CPU)
    assert len(rows) == 64
    ways = [(candidate, 0.25) for candidate in CANDIDATES]
    ratio = output_errors(problem, rows, ways) / output_errors(problem, torch.arange(TOKENS), ways)
    assert ratio.min() > 0.8
    assert ratio.max() < 1.2


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda each: each.name)
def test_the_error_is_that_of_the_attention_that_is_computed(candidate):
    """Compare on all rows, with other rows around the video and two rows of the batch."""
    layout = RowLayout(TOKENS, 50, 30, (4, 26, 14))
    tensors = smooth_heads(batch=2)
    call = call_of(layout)
    q, k, v = tensors[0][:, 50 : TOKENS - 30], *tensors[1:]
    problem = TileProblem(call, q, k, v, SCALE)
    lists = problem.key_tiles(HeadChoice.same(candidate, 0.3, 4), with_rest=False)
    found = attend_reference(q, k, v, scale=SCALE, key_tiles=lists)[0]
    expected = relative_errors(found, attend_reference(q, k, v, scale=SCALE)[0])
    measured = output_errors(problem, torch.arange(call.query_count), [(candidate, 0.3)])[0]
    assert torch.allclose(measured, expected, rtol=1e-3)
    assert expected.min() > 0.01


def test_sampled_rows_lie_in_equal_parts_and_follow_from_the_seed():
    for count, size in ((TOKENS, 64), (100, 64), (64, 64), (40, 64), (1, 64)):
        rows = sampled_rows(count, 3, CPU, size)
        assert torch.equal(rows, sampled_rows(count, 3, CPU, size))
        assert len(rows) == min(size, count)
        part = torch.arange(len(rows)) * count / len(rows)
        assert ((rows > part - 1.0) & (rows < part + count / len(rows))).all()
    assert len(ROWS.unique()) == 64
    assert not torch.equal(ROWS, sampled_rows(TOKENS, 1, CPU))


def random_lists(call, batch, heads, count, seed):
    order = torch.rand(batch, heads, call.query_tiles, call.key_tiles, generator=torch.Generator().manual_seed(seed))
    tiles = order.argsort(-1)[..., :count].sort(-1).values.to(torch.int32)
    counts = torch.full(tiles.shape[:3], count, dtype=torch.int32)
    return KeyTiles(counts, tiles, query_tile=call.query_tile, key_tile=call.key_tile)


@pytest.mark.parametrize("density", [0.1, 0.25, 0.5])
def test_routing_is_better_than_random_tiles_of_the_same_density(density):
    tensors = smooth_heads()
    problem = problem_of(tensors)
    exact = attend_reference(*tensors, scale=SCALE)[0]
    routed = problem.key_tiles(HeadChoice.same(ROUTING, density, 4), with_rest=False)
    assert routed.orders is None
    error = relative_errors(attend_reference(*tensors, scale=SCALE, key_tiles=routed)[0], exact)
    for seed in range(3):
        lists = random_lists(problem.call, 1, 4, problem.call.count(density), seed)
        assert torch.equal(lists.counts, routed.counts)
        by_chance = relative_errors(attend_reference(*tensors, scale=SCALE, key_tiles=lists)[0], exact)
        assert (error < 0.8 * by_chance).all()


@pytest.mark.parametrize("pattern", [SPATIAL, TEMPORAL], ids=lambda each: each.name)
@pytest.mark.parametrize("selected", [None, 200], ids=["all tokens", "selected ones"])
@pytest.mark.parametrize("layout", [RowLayout(TOKENS, grid=GRID), RowLayout(TOKENS, 50, 30, (4, 26, 14))])
def test_a_band_lists_the_nearest_tiles(pattern, selected, layout):
    tokens = None
    if selected:
        chosen = [torch.randperm(layout.sparse, generator=torch.Generator().manual_seed(n))[:selected] for n in (0, 1)]
        tokens = torch.stack([each.sort().values for each in chosen]) + layout.before
    call = call_of(layout, selected=tokens)
    every = torch.arange(layout.sparse) + layout.before
    free, number = call.key_tiles - call.forced, call.orders.names.index(pattern.order)
    for count in (*(call.forced + n for n in (1, 5, 20)), call.key_tiles - 1, call.key_tiles):
        lists = pattern_lists(call, pattern, count)
        assert lists.shape == (2 if selected and count < call.key_tiles else 1, 1, call.query_tiles, count)
        for row, tile in itertools.product(range(lists.shape[0]), range(call.query_tiles)):
            own = lists[row, 0, tile].tolist()
            assert [*sorted(set(own[: count - call.forced])), *range(free, call.key_tiles)] == own
            of_tile = call.queries[row, number, tile * 32 : (tile + 1) * 32].long()
            places = call.orders.places[number][(every if tokens is None else tokens[row])[of_tile]].double()
            distance = (torch.arange(free) * 16 + 7.5 - places.mean()).abs()
            listed = torch.zeros(free, dtype=torch.bool)
            listed[own[: count - call.forced]] = True
            assert listed.all() or distance[listed].max() <= distance[~listed].min() + 1e-3


# --- the limit ------------------------------------------------------------------------------------------------


def noisy_head_beside_built_ones():
    q, k, v = built_heads()
    noise = [3.0 * random(1, TOKENS, 1, DIM, seed=n) for n in (11, 12)] + [random(1, TOKENS, 1, DIM, seed=13)]
    return tuple(torch.cat([one, other], 2) for one, other in zip((q, k, v), noise, strict=True))


@pytest.mark.parametrize("limit", [0.05, 0.2, 0.35])
def test_a_head_over_the_limit_attends_to_more_until_it_is_under_it(limit):
    problem = problem_of(noisy_head_beside_built_ones())
    plan = SparsePlan(density=0.25, limit=limit)
    choice = choose_by_error(problem, ROWS, plan)
    assert max(choice.errors) <= limit
    assert choice.densities[1:3] == (0.25, 0.25)  # heads under it stay
    levels = [0.25, *(level for level in LEVELS if level > 0.25)]
    own = levels.index(choice.densities[-1])
    assert own > 0
    ways = [(choice.candidates[-1], levels[number]) for number in (own - 1, own)]
    below, here = output_errors(problem, ROWS, ways)[:, -1].tolist()
    assert below > limit
    assert choice.errors[-1] == pytest.approx(here, rel=1e-3, abs=1e-6)


def test_without_a_limit_no_head_attends_to_more():
    problem = problem_of(noisy_head_beside_built_ones())
    choice = choose_by_error(problem, ROWS, SparsePlan(density=0.25, limit=0.0))
    assert choice.densities == (0.25,) * 4
    assert choice.errors[-1] > 0.35


def test_values_that_are_not_finite_end_in_a_choice():
    q, k, v = built_heads()
    q[0, :, 0] = math.nan
    choice = choose_by_error(problem_of((q, k, v)), ROWS, SparsePlan(density=0.25))
    assert choice.densities[0] == 1.0
    assert choice.densities[1:] == (0.25, 0.25)


# --- RainFusion's rule ----------------------------------------------------------------------------------------


def test_the_rule_of_rainfusion_takes_the_pattern_that_recalls_enough():
    plan = SparsePlan(density=0.5, choice="rainfusion", limit=0.1)
    problem = problem_of(built_heads())
    choice = choose_as_rainfusion(problem, ROWS, plan)
    assert choice.candidates == (SPATIAL, TEMPORAL, TEXTURAL)
    assert choice.densities == (0.5,) * 3
    ways = output_errors(problem, ROWS, [(each, 0.5) for each in PATTERNS])
    assert choice.errors == pytest.approx([ways[PATTERNS.index(p), h].item() for h, p in enumerate(choice.candidates)])


@pytest.mark.parametrize("layout", [RowLayout(TOKENS), RowLayout(TOKENS, grid=(1, 48, 32))], ids=["no grid", "a frame"])
def test_the_rule_of_rainfusion_routes_where_there_are_no_frames(layout):
    plan = SparsePlan(density=0.25, choice="rainfusion", limit=0.01)
    choice = choose_as_rainfusion(problem_of(built_heads(), call_of(layout)), ROWS, plan)
    assert choice.candidates == (ROUTING,) * 3
    assert choice.densities == (0.25,) * 3


def test_rainfusion_computes_the_first_frame_in_full_where_density_allows_it():
    many, few = RowLayout(3000, grid=(30, 10, 10)), RowLayout(600, grid=(6, 10, 10))
    assert layout_of("rainfusion", many, 0.5) == many.with_first_frame_dense()
    assert layout_of("rainfusion", many, 0.1) is many
    assert layout_of("rainfusion", few, 0.5) is few
    assert layout_of("auto", many, 0.5) is many
    assert layout_of("rainfusion", RowLayout(3000), 0.5).before == 0


# --- lists of a choice ----------------------------------------------------------------------------------------

MIXED = HeadChoice((SPATIAL, TEMPORAL, TEXTURAL, *CANDIDATES[:3]), (0.2, 0.3, 0.5, 0.2, 1.0, 0.4))


def masked(q, k, v, mask):
    """Attention in float64 with a mask `[B, H, M, N]`."""
    q, k, v = (each.double().transpose(1, 2) for each in (q, k, v))
    scores = (q @ k.transpose(-1, -2) * SCALE).masked_fill(~mask, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("layout", [RowLayout(TOKENS, grid=GRID), RowLayout(TOKENS, 50, 30, (4, 26, 14))])
@pytest.mark.parametrize("conditioned", [False, True], ids=["", "the first frame is dense"])
def test_calls_of_selected_tokens_are_masked_attention_of_these(layout, conditioned):
    tensors = smooth_heads(heads=6, batch=2)
    chosen = [torch.randperm(layout.sparse, generator=torch.Generator().manual_seed(n))[:333] for n in (0, 1)]
    selected = torch.stack([each.sort().values for each in chosen]) + layout.before
    call = call_of(layout.with_first_frame_dense() if conditioned else layout, selected=selected)
    q = torch.stack([tensors[0][row, selected[row]] for row in (0, 1)])
    problem = TileProblem(call, q, *tensors[1:], SCALE)
    lists = problem.key_tiles(MIXED, with_rest=False)
    mask = lists.token_mask(333, TOKENS)
    per_head = torch.tensor([call.count(density) for density in MIXED.densities])
    assert torch.equal(lists.counts[0, :, 0].long(), per_head)
    assert mask[:, 4].all()  # density 1
    others = [*range(call.layout.before), *range(call.layout.before + call.layout.sparse, TOKENS)]
    assert mask[..., others].all()
    even = call.orders.keys[call.orders.names.index("spread"), : (call.count(0.5) - call.forced) * 16].long()
    wanted = torch.zeros(TOKENS, dtype=torch.bool)
    wanted[even] = True
    free = (call.key_tiles - call.forced) * 16
    wanted[call.orders.keys[call.orders.names.index("spread"), free:].long()] = True
    assert torch.equal(mask[:, 2], wanted.expand(2, 333, TOKENS))
    expected = masked(q, *tensors[1:], mask)
    for run in (attend_reference, attend_listed):
        out = run(q, *tensors[1:], scale=SCALE, need_lse=False, key_tiles=lists)[0]
        assert torch.allclose(out.double(), expected, atol=1e-5)


def test_lists_are_valid_and_of_the_counts_of_each_head():
    problem = problem_of(smooth_heads(heads=6, batch=2))
    lists = problem.key_tiles(MIXED, with_rest=False)
    assert lists.orders.of_head.tolist() == [problem.call.orders.names.index(each.order) for each in MIXED.candidates]
    for head, density in enumerate(MIXED.densities):
        count = math.ceil(density * problem.call.key_tiles - 1e-9)
        own = lists.tiles[:, head]
        assert lists.counts[:, head].eq(count).all()
        assert own[..., :count].diff(dim=-1).gt(0).all()
        assert own[..., 0].min() >= 0
        assert own[..., count - 1].max() < problem.call.key_tiles
        assert own[..., count:].eq(torch.iinfo(torch.int32).max).all()
        every = torch.arange(problem.call.query_tiles).unsqueeze(0)
        single = problem.lists(MIXED.candidates[head], density, every)
        assert torch.equal(own[..., :count], single[:, head])


def test_orders_are_left_out_where_tiles_are_cut_from_rows_as_they_are():
    tensors = smooth_heads(heads=2)
    in_raster = HeadChoice((ROUTING, SPATIAL), (0.3, 0.3))
    assert {each.order for each in in_raster.candidates} == {RASTER}
    assert problem_of(tensors).key_tiles(in_raster, with_rest=False).orders is None
    assert problem_of(tensors).key_tiles(replace(in_raster, candidates=(ROUTING, TEMPORAL)), False).orders is not None


@pytest.mark.parametrize("selected", [False, True], ids=["all tokens", "selected ones"])
def test_with_the_mean_of_the_rest(selected):
    """Outputs are exact with the mean of the rest where all keys count alike; elsewhere it changes them."""
    q, k, v = smooth_heads(heads=6, batch=2)
    rows = torch.arange(0, TOKENS, 5).expand(2, -1) if selected else None
    call = call_of(selected=rows)
    q = q[:, ::5] if selected else q
    for keys, is_exact in ((torch.zeros_like(k), True), (k, False)):
        problem = TileProblem(call, q, keys, v, SCALE)
        lists = problem.key_tiles(MIXED, with_rest=True)
        assert lists.rest.top[:, 4].eq(-math.inf).all()  # all tiles are listed
        exact = attend_reference(q, keys, v, scale=SCALE)[0]
        for run in (attend_reference, attend_listed):
            out = run(q, keys, v, scale=SCALE, need_lse=False, key_tiles=lists)[0]
            dropped = run(q, keys, v, scale=SCALE, need_lse=False, key_tiles=replace(lists, rest=None))[0]
            assert out.isfinite().all()
            assert (relative_errors(out, exact).max() < 1e-5) == is_exact
            assert relative_errors(dropped, exact)[:4].min() > 1e-3
            assert not torch.equal(out, dropped)
