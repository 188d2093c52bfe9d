"""Sparse attention in the course of a run: which calls are sparse, what is kept for how long, and what is reported."""

from __future__ import annotations

import copy
import math
import sys

import pytest
import torch

from astraea.engine.blocks.interface import TokenLayout
from astraea.engine.sparse import work as work_module
from astraea.engine.sparse.figures import SparseFigures
from astraea.engine.sparse.methods import METHODS
from astraea.engine.sparse.plan import SparsePlan
from astraea.engine.sparse.run import NEEDS_TOO_MUCH, SparseRun
from astraea.engine.sparse.work import AttentionCall
from astraea.kernels import attend_reference
from astraea.kernels.race import Timing

CPU = torch.device("cpu")
GRID = (4, 8, 8)
TOKENS = math.prod(GRID)
LAYOUT = TokenLayout(TOKENS, grid=GRID)
LAYERS = 3


def make_run(steps=4, **fields):
    """A run of small tiles; the comparison of times is left out unless it is asked for."""
    plan = SparsePlan(
        **{"min_tokens": 0, "kernel": "own", "dense_layers": 0, "query_tile": 32, "key_tile": 16} | fields
    )
    return SparseRun(plan, [1.0 - step / steps for step in range(steps + 1)])


def tensors(queries=TOKENS, keys=TOKENS, batch=1, heads=2, dim=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, rows, heads, dim, generator=generator) for rows in (queries, keys, keys))


def dense(q, k, v):
    return attend_reference(q, k, v, scale=0.25, need_lse=False)[0]


def call_of(q, k, v, **fields):
    return AttentionCall(q, k, v, 0.25, fields.pop("dense", dense), **fields)


def model_call(run, step, calls, layout=LAYOUT, conditioned=False, roles="cond"):
    """Return what the attention calls of one model call come to, in their order."""
    with run.model_call(run.levels[step], layout, conditioned, roles, CPU):
        return [run.attend(call) for call in calls]


def sample(run, calls=None, **fields):
    """Return all outputs of a run, by step and layer."""
    calls = calls or [call_of(*tensors(seed=layer)) for layer in range(LAYERS)]
    return [model_call(run, step, calls, **fields) for step in range(run.steps)]


def are_sparse(outputs):
    return [[out is not None for out in step] for step in outputs]


def test_of_four_steps_exactly_the_first_is_dense():
    run = make_run(min_tokens=TOKENS)
    assert are_sparse(sample(run)) == [[False] * 3] + [[True] * 3] * 3
    figures = run.finish()
    assert (figures.sparse_steps, figures.sparse_layers, figures.layers) == ({1, 2, 3}, {0, 1, 2}, {0, 1, 2})
    assert (figures.steps, figures.calls) == (4, 9)
    assert figures.notes() == []  # all as planned


@pytest.mark.parametrize(("steps", "first"), [(1, 1), (2, 1), (3, 1), (4, 1), (8, 1), (10, 1), (20, 2), (50, 5)])
def test_steps_that_stay_dense(steps, first):
    run = make_run(steps)
    calls = [call_of(*tensors())] * 2
    found = [model_call(run, step, calls)[1] is not None for step in range(steps)]
    assert found == [False] * first + [True] * (steps - first)
    assert make_run(steps, dense_start=0.0).plan.dense_steps(steps) == 1
    assert make_run(steps, dense_start=1.0).plan.dense_steps(steps) == steps


def test_a_run_that_goes_on_from_another_has_no_dense_steps():
    for levels, sparse in (([0.833, 0.625, 0.0], [True, True]), ([0.95, 0.6, 0.0], [False, True])):
        run = SparseRun(make_run().plan, levels)
        assert [model_call(run, step, [call_of(*tensors())])[0] is not None for step in range(2)] == sparse


def test_a_run_of_one_step_and_a_plan_of_density_one_are_dense():
    for run in (make_run(1), make_run(6, density=1.0)):
        assert not any(map(any, are_sparse(sample(run))))
        figures = run.finish()
        assert figures.calls == 0
        assert figures.line() == "every attention call was dense: no step comes after those that stay so"
        assert figures.notes() == []


def test_steps_are_known_by_their_noise_level():
    run = SparseRun(SparsePlan(), [10.0, 5.0, 1.0, 0.0])
    levels = {20.0: 0, 10.0: 0, 7.0: 0, 5.0: 1, 5.0001: 1, 3.0: 1, 1.0: 2, 0.5: 2, 0.0: 2}
    assert {level: run.step_of(level) for level in levels} == levels


def test_attention_outside_a_model_call_is_no_business_of_the_run():
    run = make_run()
    call = call_of(*tensors())
    assert run.attend(call) is None
    assert not run.is_open
    with run.model_call(run.levels[2], LAYOUT, False, "cond", CPU):
        assert run.is_open
        with run.closed():
            with run.closed():
                assert not run.is_open
            run.stays_dense("noted while closed")
        assert run.is_open
        run.stays_dense("noted while open")
    run.stays_dense("noted outside")
    with pytest.raises(RuntimeError, match="out"), run.model_call(1.0, LAYOUT, False, "cond", CPU):
        raise RuntimeError("out of luck")
    assert not run.is_open
    figures = run.finish()
    assert dict(figures.dense) == {"noted while open": 1}
    assert figures.layers == set()


def test_calls_of_other_tokens_are_no_layers():
    """Cross-attention and text: calls whose keys are not the video's do not count."""
    run = make_run()
    text = call_of(*tensors(keys=20))
    own = call_of(*tensors())
    outputs = model_call(run, 2, [text, own, text, own, text])
    assert [out is not None for out in outputs] == [False, True, False, True, False]
    assert run.finish().layers == {0, 1}


REASONS = {
    "it has a mask": lambda: (call_of(*tensors(), is_masked=True), {}),
    "256 tokens are fewer than min_tokens, 257": lambda: (call_of(*tensors()), {"min_tokens": 257}),
    "its tensors are float16": lambda: (call_of(tensors()[0].half(), *tensors()[1:]), {}),
    "queries and keys differ in heads": lambda: (call_of(tensors(heads=4)[0], *tensors()[1:]), {}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons_for_calls_that_stay_dense_are_told(reason):
    call, fields = REASONS[reason]()
    run = make_run(**fields)
    assert model_call(run, 0, [call, call]) == [None, None]  # as planned
    assert model_call(run, 2, [call, call, call]) == [None, None, None]
    figures = run.finish()
    assert figures.notes() == [f"sparse attention: 3 calls stayed dense: {reason}"]
    assert figures.line() == "every attention call was dense"


def counted_choices(monkeypatch):
    chosen = []

    def counting(problem, *others, method=METHODS["auto"]):
        chosen.append(problem)
        return method(problem, *others)

    monkeypatch.setitem(METHODS, "auto", counting)
    return chosen


@pytest.mark.parametrize(
    ("steps", "expected"), [(4, [1, 2, 3]), (8, [*range(1, 8)]), (9, [1, 5]), (12, [1, 5, 9]), (20, [2, 6, 10, 14, 18])]
)
def test_a_choice_is_made_anew_each_step_of_a_short_run_and_every_fourth_of_a_long_one(monkeypatch, steps, expected):
    chosen = counted_choices(monkeypatch)
    run = make_run(steps)
    calls = [call_of(*tensors())]
    for step in range(steps):
        before = len(chosen)
        model_call(run, step, calls)
        model_call(run, step, calls)  # again at the same step, as samplers of second order do
        assert len(chosen) - before == (step in expected)
    assert sorted(run.finish().errors) == [(0, step) for step in expected]


def test_finish_drops_all_that_was_kept(monkeypatch):
    chosen = counted_choices(monkeypatch)
    run = make_run(12)
    calls = [call_of(*tensors())]
    for roles in ("cond", "uncond", "cond", "uncond"):
        model_call(run, 4, calls, roles=roles)
    assert len(chosen) == 2  # each for itself, and kept
    kept = run.kept("mine", object)
    assert run.kept("mine", object) is kept
    figures = run.finish()
    assert run.finish() is figures
    assert run.kept("mine", object) is not kept
    model_call(run, 5, calls)
    assert len(chosen) == 3
    assert copy.deepcopy({"run": run})["run"] is run


def test_a_layer_chooses_anew_for_a_window_that_has_other_orders():
    """A window of one frame has no order by place; of a window without a grid only the raster is known."""
    run = make_run(12)
    calls = [call_of(*tensors(heads=8))]
    for layout in (LAYOUT, TokenLayout(TOKENS, grid=(1, 16, 16)), TokenLayout(TOKENS), LAYOUT):
        assert model_call(run, 3, calls, layout)[0].isfinite().all()
    assert len(run.finish().errors[0, 3]) == 3


@pytest.mark.parametrize("conditioned", [False, True], ids=["", "the first frame is given"])
def test_rows_of_others_are_those_of_dense_attention(conditioned):
    layout = TokenLayout(TOKENS, 20, 10, GRID)
    q, k, v = tensors(layout.total, layout.total, batch=2)
    run = make_run(density=0.1, limit=0.0)
    out = model_call(run, 2, [call_of(q, k, v)] * 2, layout, conditioned)[1]
    expected = dense(q, k, v)
    first = 20 + (64 if conditioned else 0)
    others = torch.cat([torch.arange(first), torch.arange(20 + TOKENS, layout.total)])
    assert torch.allclose(out[:, others], expected[:, others], atol=1e-6)
    assert not torch.isclose(out, expected, atol=1e-3)[:, first : 20 + TOKENS].all(-1).any()


def test_selected_tokens_are_computed_sparsely_and_others_densely():
    layout = TokenLayout(TOKENS, 20, 10, GRID)
    q, k, v = tensors(layout.total, layout.total, batch=2)
    selected = torch.stack([torch.arange(20, 20 + TOKENS, 4), torch.arange(22, 20 + TOKENS, 4)])
    rows = torch.cat([torch.arange(20).expand(2, -1), selected, torch.arange(276, 286).expand(2, -1)], 1)
    some = q.take_along_dim(rows.view(2, -1, 1, 1), 1)
    run = make_run(density=0.2, limit=0.0)
    out = model_call(run, 2, [call_of(some, k, v, selected=selected)] * 2, layout)[1]
    expected = dense(some, k, v)
    assert out.shape == some.shape
    others = [*range(20), *range(-10, 0)]
    assert torch.allclose(out[:, others], expected[:, others], atol=1e-6)
    assert not torch.allclose(out[:, 20:-10], expected[:, 20:-10], atol=1e-2)
    assert run.finish().seconds == {False: [], True: []}  # a part of the tokens is no measure of a whole call


def test_selected_tokens_that_are_not_known_stay_dense():
    run, (q, k, v) = make_run(), tensors(100)
    for selected in (torch.arange(99).unsqueeze(0), None):
        assert model_call(run, 2, [call_of(q, k, v, selected=selected)]) == [None]
    assert run.finish().notes()[0].endswith("1 call stayed dense: which rows a token step selected is not known")


@pytest.mark.parametrize(("timing", "is_sparse"), [(Timing(1.0, 2.0), True), (Timing(2.0, 1.0), False)])
def test_sparse_calls_must_win_their_race(monkeypatch, timing, is_sparse):
    raced = []

    def race(problem, density, *, sparse, dense, name, now_and_then):
        assert now_and_then[0]().candidates
        assert now_and_then[1] == 1
        raced.append((problem.keys, problem.key_tiles, round(density, 6), sparse().shape, dense().shape))
        return timing

    monkeypatch.setattr(work_module, "race", race)
    run = make_run(kernel="auto", density=0.25, choice="routing", limit=0.0)
    assert are_sparse(sample(run))[2] == [is_sparse] * 3
    assert set(raced) == {(TOKENS, True, 0.25, (1, TOKENS, 2, 16), (1, TOKENS, 2, 16))}
    figures = run.finish()
    assert figures.attention_speedup == (2.0 if is_sparse else None)
    assert figures.notes() == ([] if is_sparse else [f"sparse attention: 9 calls stayed dense: {timing.reason}"])


def test_heads_that_need_too_much_stay_dense(monkeypatch):
    """Timed at the density that is asked for; the limit asks for more."""
    monkeypatch.setattr(work_module, "race", lambda *_, **__: Timing(1.0, 2.0))
    run = make_run(kernel="auto", density=0.25, limit=0.01)
    assert not any(are_sparse(sample(run))[2])
    figures = run.finish()
    assert figures.notes() == [f"sparse attention: 9 calls stayed dense: {NEEDS_TOO_MUCH}"]
    assert figures.error is None


def test_without_comfy_kitchen_the_own_kernel_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy_kitchen", None)
    run = make_run(kernel="comfy-kitchen")
    assert are_sparse(sample(run))[1] == [True] * 3
    reason = "this comfy-kitchen has no sparse attention: the own kernel ran instead"
    assert run.finish().notes() == [f"sparse attention: {reason}"]


def test_figures_of_a_run():
    run = make_run(choice="routing", density=0.25, limit=0.0)
    sample(run)
    figures = run.finish()
    assert figures.computed_share == pytest.approx(0.25)
    assert figures.choices == {"tile means": 3 * 2 * 3}
    assert 0.0 < figures.error < 3.0
    worst = max((0, 1, 2), key=lambda layer: sum(figures.errors[layer, step][0] for step in (1, 2, 3)))
    assert figures.worst[0] == worst
    line = figures.line()
    assert line.startswith("3 of 3 layers, 3 of 4 steps, density 0.25; attention output off by ")
    assert f"(worst: layer {worst + 1}, " in line
    kept = figures.as_dict()
    assert kept["line"] == line
    assert (kept["layers"], kept["sparse_layers"], kept["steps"], kept["sparse_steps"]) == (3, 3, 4, 3)
    assert (kept["calls"], kept["worst_layer"], kept["choices"]) == (9, worst, {"tile means": 18})


def test_errors_that_are_not_finite_are_a_remark():
    figures = SparseFigures(layers={0, 1}, sparse_layers={0, 1}, steps=2, sparse_steps={0, 1}, calls=4)
    figures.add_error(0, 0, 0.1)
    figures.add_error(1, 0, float("nan"))
    figures.add_error(1, 1, float("inf"))
    assert figures.as_dict()["layer_errors"] == [0.1, 0.0]
    assert figures.worst == (0, 0.1)
    assert ["not finite" in note for note in figures.notes()] == [True]
