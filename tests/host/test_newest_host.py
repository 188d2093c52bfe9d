"""What the newest ComfyUIs do and older ones do not: layers that ask for an attention, recorded allocations."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import kit
import pytest
import torch
import zoo
from allocation_recorder import AllocationRecorder
from newest_host import NewestAttention
from sampling import accelerated, full, last, sample
from sparse_kit import sparsely

from astraea.host.sampling import memory
from astraea.host.sampling.attention import HOST_NAME, OVERRIDE, PREFERRED

TOKENS, BLOCKS = 64, 8
RUN = {"steps": 6, "cfg": 1.0}


@pytest.fixture
def newest(monkeypatch):
    return NewestAttention(monkeypatch)


@pytest.fixture
def load(load_tiny, newest):
    """`load(blocks)`: the easy model, whose layers ask for their own attention in these blocks."""

    def load(blocks=range(BLOCKS)):
        model = load_tiny(torch.float32)
        newest.install(model, blocks)
        return model

    return load


@pytest.mark.parametrize("preference", ["auto", "host", "fast"])
def test_token_steps_run_on_the_attention_that_the_layers_ask_for(load, newest, preference):
    fast, handle = accelerated(load(), attention=preference)
    sample(fast, **RUN)
    steps = last(handle).counts()
    assert {what for what, *_ in newest.calls} == {"own"}
    queries = [count for _, count in newest.self_attention(TOKENS)]
    assert len(queries) == (steps["full"] + steps["token"]) * BLOCKS
    assert sum(count < TOKENS for count in queries) == steps["token"] * BLOCKS > 0
    assert last(handle).attention == PREFERRED


def test_only_the_layers_that_ask_get_it(load, newest):
    fast, handle = accelerated(load({0, 5}), attention="host")
    sample(fast, **RUN)
    token_steps = last(handle).counts()["token"]
    few = [what for what, queries in newest.self_attention(TOKENS) if queries < TOKENS]
    assert few == ["own", *["host"] * 4, "own", *["host"] * 2] * token_steps


def test_layers_that_ask_for_nothing_change_nothing(load, load_tiny, newest):
    plain, handle = accelerated(load_tiny(torch.float32), attention="host")
    expected = sample(plain, **RUN)
    assert torch.equal(sample(accelerated(load(()), attention="host")[0], **RUN), expected)
    assert last(handle).attention == HOST_NAME


def test_full_budget_is_the_hosts_result(load):
    model = load()
    assert torch.equal(sample(full(model), **RUN), sample(model, **RUN))


def test_an_override_goes_before_it(load, newest):
    model, seen = load(), []

    def override(function, q, *args, **kwargs):
        seen.append(q.shape[1])
        return function(q, *args, **kwargs)

    model.model_options["transformer_options"][OVERRIDE] = override
    fast, handle = accelerated(model)
    sample(fast, **RUN)
    assert {what for what, *_ in newest.calls} == {"override"}
    assert any(count < TOKENS for count in seen)
    assert last(handle).attention == "another node's, through ComfyUI"


def test_mode_paper_takes_the_packs_kernels_for_their_log_sum_exp(load, newest):
    fast, handle = accelerated(load(), mode="paper")
    assert sample(fast, **RUN).isfinite().all()
    assert not any(queries < TOKENS for _, queries in newest.self_attention(TOKENS))
    assert "with log-sum-exp" in last(handle).attention


class Pauses:
    """Counts `with pause_malloc_graph():`, and that none is in another."""

    def __init__(self):
        self.count = self.depth = 0

    def __call__(self):
        return self

    def __enter__(self):
        assert self.depth == 0
        self.count, self.depth = self.count + 1, 1

    def __exit__(self, *error):
        self.depth = 0


@pytest.mark.parametrize("mode", ["default", "forecast", "paper"])
def test_what_is_kept_is_allocated_while_the_host_does_not_record(load_tiny, monkeypatch, mode):
    expected = sample(accelerated(load_tiny(), mode=mode)[0], **RUN)
    pauses = Pauses()
    monkeypatch.setattr(memory, "model_prefetch", SimpleNamespace(pause_malloc_graph=pauses))
    fast, handle = accelerated(load_tiny(), mode=mode)
    assert torch.equal(sample(fast, **RUN), expected)
    assert pauses.count >= last(handle).counts()["token"] > 0


def test_a_pause_within_a_pause_is_one(monkeypatch):
    pauses = Pauses()
    monkeypatch.setattr(memory, "model_prefetch", SimpleNamespace(pause_malloc_graph=pauses))
    for count in (1, 2):
        with suppress(KeyError), memory.lasting_memory():
            with memory.lasting_memory():
                pass
            assert (pauses.count, pauses.depth) == (count, 1)
            raise KeyError
        assert pauses.depth == 0


@pytest.mark.parametrize("absent", [None, SimpleNamespace()], ids=["no module", "no recorder"])
def test_hosts_that_record_nothing_are_not_paused(monkeypatch, absent):
    monkeypatch.setattr(memory, "model_prefetch", absent)
    with memory.lasting_memory():
        assert torch.ones(1).item() == 1.0


@pytest.fixture
def recorded_minimax_h3(monkeypatch):
    """MiniMax-H3 as the newest ComfyUIs run it: recorded, each block in a scope of its own."""
    host = pytest.importorskip("comfy.ldm.minimax.model")
    recorder, model, final = AllocationRecorder(), host.MiniMaxH3Model, host.FinalLayer
    in_model, to_end = model._forward, final.forward

    def in_section(self, x, *args, **kwargs):
        out = [torch.empty_like(stream) for stream in x]
        with recorder.section():
            for kept, made in zip(out, in_model(self, x, *args, **kwargs), strict=True):
                kept.copy_(made)
            del made
        return out

    def at_end(self, *args, **kwargs):
        recorder.next_block(last=True)
        return to_end(self, *args, **kwargs)

    monkeypatch.setattr(host.comfy.model_prefetch, "prefetch_queue_pop", lambda *_, **__: recorder.next_block())
    monkeypatch.setattr(model, "_forward", in_section)
    monkeypatch.setattr(final, "forward", at_end)
    monkeypatch.setattr(memory, "model_prefetch", SimpleNamespace(pause_malloc_graph=recorder.pause))
    return recorder


@pytest.mark.parametrize("cache", ["full", "fp8-host"])
@pytest.mark.parametrize("mode", ["default", "forecast", "paper", "random"])
def test_minimax_h3_gives_back_what_is_recorded(recorded_minimax_h3, mode, cache):
    from zoo.video import minimax_h3

    sampled = minimax_h3()
    plain = zoo.sample(sampled, steps=2)
    assert kit.joined(plain).isfinite().all()
    result, report = kit.run(sampled, mode=mode, cache=cache)
    assert result.isfinite().all()
    assert report.counts()["token"] > 0


@pytest.mark.parametrize("schedule", [None, kit.TOKENS], ids=["alone", "with token steps"])
def test_sparse_attention_gives_back_what_is_recorded(recorded_minimax_h3, schedule):
    from zoo.video import minimax_h3

    sampled = minimax_h3()
    plain = zoo.sample(sampled, steps=2)
    on, handle = sparsely(sampled.model, query_tile=8, key_tile=4)
    if schedule is not None:
        result, _ = kit.run(sampled, model=on)
    else:
        result = kit.joined(zoo.sample(sampled, on, steps=4))
    assert result.isfinite().all()
    assert last(handle).sparse["calls"] > 0
    assert kit.joined(plain).isfinite().all()
