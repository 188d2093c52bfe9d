"""Sparse attention in the real ComfyUI: with other nodes and with Accelerate, and gone after a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import kit
import pytest
import torch
from comfy.ldm.modules import attention as host_attention
from sampling import TOKENS, WHOLE, accelerated, last, psnr, sample
from sparse_kit import SMALL, sparsely
from test_nothing_left_behind import traces

from astraea.engine.sparse.plan import SparsePlan
from astraea.engine.sparse.run import NEEDS_LSE, SparseRun
from astraea.host.sampling import sparse
from astraea.host.sampling.sparse import CORE_CALLBACK, OVERRIDE
from astraea.nodes.report_text import report_text


@contextmanager
def watched_calls() -> Iterator[list[tuple[int, int, bool]]]:
    """Within the context, `(queries, keys, whether it was sparse)` of every call put to a run."""
    seen: list[tuple[int, int, bool]] = []
    original = SparseRun.attend

    def attend(self, call):
        out = original(self, call)
        seen.append((call.q.shape[1], call.k.shape[1], out is not None))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparseRun, "attend", attend)
        yield seen


def counting(calls: list[int]):
    """An override as other nodes install it: it counts its calls and computes by the host's own attention."""

    def override(function, *args, **kwargs):
        calls.append(args[0].shape[-2])
        return function(*args, **kwargs)

    return override


# --- off, and afterwards ----------------------------------------------------------------------------------------


def test_off_is_the_same_to_the_bit_and_leaves_nothing(load_tiny):
    model = load_tiny()
    expected, before = sample(model), traces(model)
    for plan in ({"density": 1.0}, {"min_tokens": 1 << 20}, {"dense_start": 1.0}):
        off, _ = sparsely(model, **plan)
        assert torch.equal(sample(off), expected)
    on, handle = sparsely(model)
    options = traces(on)["options"]
    assert not torch.equal(sample(on), expected)
    assert last(handle).sparse["calls"] > 0
    assert traces(model) == before
    assert traces(on)["options"] == options
    assert OVERRIDE not in on.model_options["transformer_options"]
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, (SparseRun, sparse.SparseOverride))]
    assert torch.equal(sample(model), expected)


def test_nothing_stays_after_an_error_or_an_interrupt(load_tiny, monkeypatch):
    model = load_tiny()
    expected, before = sample(model), traces(model)
    on, handle = sparsely(model)
    entered = []

    def interrupt(self, problem, layer, model_call):
        entered.append(1)
        if len(entered) == 3:
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()
        return original(self, problem, layer, model_call)

    original = SparseRun._choice
    monkeypatch.setattr(SparseRun, "_choice", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(on)
    monkeypatch.undo()
    assert traces(model) == before
    assert not last(handle).finished
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, (SparseRun, sparse.SparseOverride))]
    assert torch.equal(sample(model), expected)
    sample(on)
    assert last(handle).finished


def test_the_same_seed_gives_the_same_result(load_tiny):
    on, _ = sparsely(load_tiny())
    assert torch.equal(sample(on), sample(on))
    assert torch.equal(sample(on), sample(sparsely(load_tiny())[0]))


def test_a_later_node_replaces_an_earlier_one(load_tiny):
    model = load_tiny()
    once, _ = sparsely(model, density=0.5)
    twice, handle = sparsely(sparsely(model, density=0.2)[0], density=0.5)
    assert torch.equal(sample(once), sample(twice))
    assert last(handle).sparse["computed_share"] == pytest.approx(0.5, abs=0.1)


# --- other nodes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("earlier", [True, False], ids=["before", "after"])
def test_an_override_of_another_node_is_called_once_for_every_dense_call(load_tiny, earlier):
    plain: list[int] = []
    model = load_tiny()
    model.model_options["transformer_options"][OVERRIDE] = counting(plain)
    sample(model)
    calls: list[int] = []
    model.model_options["transformer_options"].pop(OVERRIDE)
    if earlier:
        model.model_options["transformer_options"][OVERRIDE] = counting(calls)
    on, handle = sparsely(model)
    if not earlier:
        on.model_options["transformer_options"][OVERRIDE] = counting(calls)
    sample(on)
    figures = last(handle).sparse
    assert figures["calls"] > 0
    assert len(calls) == len(plain) - figures["calls"]


@pytest.mark.newest_host
def test_an_override_put_back_at_every_step_stays_below(load_tiny):
    """As nodes do that want to be on top: the host calls them before each step."""
    calls: list[int] = []
    model = load_tiny()
    override = counting(calls)
    on, handle = sparsely(model)

    def put_back(patcher, timestep, model_options):
        model_options["transformer_options"][OVERRIDE] = override

    on.add_callback_with_key("on_prepare_state", "other", put_back)
    sample(on)
    assert last(handle).sparse["calls"] > 0
    assert calls


def test_comfyuis_own_sparse_attention_is_left_alone(load_tiny):
    model = load_tiny()
    expected = sample(model)
    model.add_callback_with_key("on_cleanup", CORE_CALLBACK, lambda patcher: None)
    on, handle = sparsely(model)
    assert torch.equal(sample(on), expected)
    assert last(handle).notes == [sparse.CORE_IS_ON]


def test_masks_and_other_attention_stay_dense(load_tiny):
    run = SparseRun(SparsePlan(**SMALL, dense_start=0.0), [1.0, 0.8, 0.6, 0.0])
    layout = kit.TokenLayout(256, grid=(4, 8, 8))
    override = sparse.SparseOverride(run, None)
    q = torch.randn(1, 256, 128)
    few = torch.randn(1, 32, 128)

    def function(q, k, v, heads, mask=None, **kwargs):
        return host_attention.attention_pytorch(q, k, v, heads, mask, **kwargs)

    with run.model_call(0.7, layout, False, (0,), q.device):
        override(function, q, q, q, 2)  # the first layer
        expected = function(q, q, q, 2)
        assert not torch.equal(override(function, q, q, q, 2), expected)
        assert torch.equal(override(function, q, q, q, 2, mask=torch.zeros(256, 256)), expected)
        assert torch.equal(override(function, q, q, q, 2, low_precision_attention=False), expected)
        assert torch.equal(override(function, q, few, few, 2), function(q, few, few, 2))
        assert torch.equal(override(function, few, q, q, 2), function(few, q, q, 2))
        assert torch.equal(override(function, few, few, few, 2), function(few, few, few, 2))
    assert torch.equal(override(function, q, q, q, 2), expected)  # outside of model calls
    assert run.figures.dense["it has a mask"] == 1


@pytest.mark.parametrize("out_in_heads", [False, True])
def test_both_layouts_of_the_host_give_the_same(out_in_heads):
    run = SparseRun(SparsePlan(**SMALL, dense_start=0.0), [1.0, 0.8, 0.6, 0.0])
    layout, override = kit.TokenLayout(250, 3, 4, grid=(5, 10, 5)), sparse.SparseOverride(run, None)
    q, k, v = (torch.randn(2, 257, 2 * 64) for _ in range(3))
    heads = [t.unflatten(-1, (2, 64)).transpose(1, 2) for t in (q, k, v)]
    function = host_attention.attention_pytorch
    options = {"skip_reshape": True, "skip_output_reshape": True} if out_in_heads else {"skip_reshape": True}
    results = []
    for tensors, kwargs in (((q, k, v), {}), (heads, options)):
        with run.model_call(0.7, layout, False, (0,), q.device):
            override(function, *tensors, 2, **kwargs)
            results.append(override(function, *tensors, 2, **kwargs))
    plain, other = results
    if out_in_heads:
        other = other.transpose(1, 2).flatten(2)
    assert torch.allclose(plain, other, atol=1e-5)
    assert plain.shape == other.shape == q.shape


@pytest.mark.newest_host
def test_compiled_blocks_give_the_same(load_tiny):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    on, handle = sparsely(load_tiny())
    expected = sample(on)
    calls = last(handle).sparse["calls"]
    compiled = on.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    assert psnr(expected, sample(compiled)) > 70.0
    assert last(handle).sparse["calls"] == calls


# --- with Accelerate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [TOKENS, WHOLE], ids=["tokens", "whole"])
def test_the_order_of_the_two_nodes_makes_no_difference(load_tiny, schedule):
    model = load_tiny()
    first, _ = accelerated(sparsely(model)[0], schedule)
    then, handle = sparsely(accelerated(model, schedule)[0])
    one, other = sample(first), sample(then)
    assert torch.equal(one, other)
    assert not torch.equal(one, sample(accelerated(model, schedule)[0]))
    assert last(handle).sparse["calls"] > 0


def test_at_budget_1_without_sparse_calls_the_bits_are_the_dense_ones(load_tiny):
    model = load_tiny()
    both, handle = accelerated(sparsely(model, density=1.0)[0], budget=1.0)
    assert torch.equal(sample(both), sample(model))
    assert last(handle).sparse is None


def test_token_steps_are_sparse_over_all_keys_and_skipped_steps_call_nothing(load_tiny):
    model = load_tiny()
    with watched_calls() as calls:
        fast, handle = accelerated(sparsely(model)[0], TOKENS)
        sample(fast)
    tokens = 4 * 4 * 4
    partial = [is_sparse for queries, keys, is_sparse in calls if queries < keys == tokens]
    assert partial == [True] * 7 * 8  # at seven steps, in eight layers
    assert last(handle).sparse["calls"] == sum(is_sparse for _, _, is_sparse in calls)
    with watched_calls() as calls:
        fast, handle = accelerated(sparsely(model)[0], WHOLE)
        sample(fast)
    computed = sum(call.kind == "full" for call in last(handle).calls)
    own = [queries for queries, keys, _ in calls if keys == tokens]
    assert own == [tokens] * 8 * computed  # one per layer
    assert "density" in report_text(last(handle))


def test_mode_paper_stays_dense_and_says_so(load_tiny):
    model = load_tiny()
    fast, handle = accelerated(sparsely(model)[0], TOKENS, mode="paper")
    plain, _ = accelerated(model, TOKENS, mode="paper")
    expected, result = sample(plain), sample(fast)
    assert any(NEEDS_LSE in note for note in last(handle).notes)
    assert psnr(expected, result) > 20.0


# --- the report -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.2, 0.5])
@pytest.mark.parametrize("choice", ["auto", "routing", "rainfusion"])
def test_the_reported_error_is_that_of_the_outputs(load_tiny, choice, density):
    """Measured on sampled rows when heads choose; here on all rows of all calls."""
    errors = []
    original = SparseRun.attend

    def attend(self, call):
        out = original(self, call)
        if out is not None:
            exact = call.dense(call.q, call.k, call.v)
            errors.append(float((out - exact).norm() / exact.norm()))
        return out

    on, handle = sparsely(load_tiny(), choice=choice, density=density)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparseRun, "attend", attend)
        sample(on, shape=(1, 16, 6, 16, 16), cfg=1.0)
    figures = last(handle).sparse
    assert figures["error"] == pytest.approx(sum(errors) / len(errors), rel=0.2)
    assert f"off by {figures['error']:.0%} on sampled rows" in figures["line"]
