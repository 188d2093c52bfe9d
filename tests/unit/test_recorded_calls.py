"""Hosts that record what a model allocates, or what a block does: nothing of ours gets into a recording."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from allocation_recorder import AllocationRecorder
from recorded_host import DIM, TEXT, GraphedModel, PackedModel, PackedRunner
from torch import Tensor
from toy_transformer import toy_attend

from astraea.engine.blocks.interface import RowGroup, TokenLayout
from astraea.engine.calls import block_hooks
from astraea.engine.calls.context import CallRequest
from astraea.engine.planning.modes import MODES
from astraea.engine.planning.plan import make_plan
from astraea.engine.run import Run
from astraea.schedules import flow_sigmas, periodic

VIDEO = 48
SIGMAS = [*flow_sigmas(9), 0.0]


def start() -> Tensor:
    return torch.randn(1, VIDEO, DIM, generator=torch.Generator().manual_seed(1))


def request(model: PackedModel, sigma: float, **changes) -> CallRequest:
    known = {
        "sigma": sigma,
        "groups": (RowGroup("cond", slice(0, 1)),),
        "layout": TokenLayout(VIDEO, prefix=TEXT),
        "runner": PackedRunner(),
        "attend": toy_attend,
        "blocks": len(model.blocks),
        "device": torch.device("cpu"),
        "allocating": model.allocating,
    }
    return CallRequest(**known | changes)


def run_of(mode: str, cache: str = "full") -> Run:
    plan = make_plan(periodic("p", [0.5, 0.3], SIGMAS[:-1], full_start=2), mode=mode, cache=cache)
    return Run.of(plan, SIGMAS)


def sample(model: PackedModel, mode: str, cache: str) -> tuple[Tensor, list[str]]:
    run, x = run_of(mode, cache), start()
    for sigma, following in pairwise(SIGMAS):
        call = run.begin_call(request(model, sigma))
        with block_hooks.patched_forwards(model.blocks, call):
            prediction = model(x, sigma)
        x = x + (following - sigma) / sigma * (x - run.end_call(call, prediction))
    return x, [record.kind for record in run.finish().calls]


@pytest.mark.parametrize("cache", ["full", "fp8", "fp8-host"])
@pytest.mark.parametrize("mode", MODES)
def test_no_memory_from_a_recorded_section_is_kept(mode: str, cache: str) -> None:
    expected, kinds = sample(PackedModel(), mode, cache)
    assert kinds.count("token") == 6
    result, recorded_kinds = sample(PackedModel(AllocationRecorder()), mode, cache)
    assert recorded_kinds == kinds
    assert torch.equal(result, expected)


# Token steps of mode `paper` keep nothing new: each block brings up to date what it has.
KEEPING = [(mode, kind) for mode in MODES for kind in ("full", "token") if (mode, kind) != ("paper", "token")]


@pytest.mark.parametrize(("mode", "kind"), KEEPING)
def test_the_recorder_finds_what_a_step_keeps_without_pausing_it(mode: str, kind: str) -> None:
    model, run = PackedModel(AllocationRecorder()), run_of(mode)
    steps = 2 if kind == "full" else 3
    for sigma in SIGMAS[: steps - 1]:
        call = run.begin_call(request(model, sigma))
        with block_hooks.patched_forwards(model.blocks, call):
            run.end_call(call, model(start(), sigma))
    call = run.begin_call(request(model, SIGMAS[steps - 1], allocating=nullcontext))
    assert call.kind == kind
    with block_hooks.patched_forwards(model.blocks, call), pytest.raises(AssertionError, match=r"outlives|freed"):
        model(start(), SIGMAS[steps - 1])


def test_a_block_that_works_in_place_gets_its_input_back() -> None:
    model, run = PackedModel(), run_of("hold")
    for sigma in SIGMAS[:3]:
        call = run.begin_call(request(model, sigma))
        sequence = torch.cat([model.text, start()[0]])
        with block_hooks.patched_forwards(model.blocks, call):
            result = model.run_block(model.blocks[0], sequence, torch.ones(1, DIM), [(0, VIDEO + TEXT, 0)], positions())
        assert result.data_ptr() == sequence.data_ptr()
        run.end_call(call, start())
    assert run.report.calls[-1].kind == "token"


def positions() -> Tensor:
    return torch.eye(2).expand(1, VIDEO + TEXT, 1, DIM // 4, 2, 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_block_that_becomes_a_graph_runs_as_it_is(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain, run = GraphedModel(), PackedModel(), run_of(mode)
    monkeypatch.setattr(block_hooks, "is_capturing", lambda: model.is_capturing)

    def attend(*args, **kwargs):
        assert not model.is_capturing, "attention of ours would be replayed"
        return toy_attend(*args, **kwargs)

    x = start()
    for step, sigma in enumerate(SIGMAS[:6]):
        call = run.begin_call(request(model, sigma, attend=attend))
        with block_hooks.patched_forwards(model.blocks, call):
            prediction = run.end_call(call, model(x, sigma))
        close = step == 0 and mode == "paper"  # its full steps run blocks by the runner
        torch.testing.assert_close(prediction, plain(x, sigma), **({} if close else {"rtol": 0.0, "atol": 0.0}))
        x = x * 0.9
    assert not any(state.kept for state in run.states)


def test_a_token_step_says_which_blocks_became_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, run = PackedModel(), run_of("hold")
    for step, sigma in enumerate(SIGMAS[:4]):
        monkeypatch.setattr(block_hooks, "is_capturing", lambda step=step: step == 2)
        call = run.begin_call(request(model, sigma))
        with block_hooks.patched_forwards(model.blocks, call):
            run.end_call(call, model(start(), sigma))
    calls = run.report.calls
    assert [call.kind for call in calls] == ["full"] * 4
    assert calls[2].reason == "3 of 3 blocks: ComfyUI records it as a CUDA graph"
    assert calls[3].reason == "nothing had been kept for their conditioning"
