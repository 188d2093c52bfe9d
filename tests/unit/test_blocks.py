"""The block interface: blocks that work in place, blocks of several streams, and models whose blocks are not known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_transformer import DIM, ToyBlock, ToyRunner, toy_attend

from astraea.engine.blocks.interface import Attend, BlockCall, RowGroup, TokenLayout
from astraea.engine.blocks.selection import Selection
from astraea.engine.calls import ReuseCall
from astraea.engine.calls.block_hooks import patched_forwards
from astraea.engine.calls.context import CallRequest
from astraea.engine.planning.modes import MODES
from astraea.engine.planning.plan import make_plan
from astraea.engine.run import TOKENS_CHANGED, Run
from astraea.models import describe_box
from astraea.schedules import flow_sigmas, periodic

VIDEO, TEXT = 48, 5
SIGMAS = [*flow_sigmas(9), 0.0]
SHIFT, CONTEXT = torch.full((1, 1, DIM), 0.1), torch.full((2, 1, DIM), 0.2)


class OneStream(ToyBlock):
    """A block on all tokens, text behind the video, that leaves its input as it is."""


class InPlace(ToyBlock):
    """The same block; it writes its result into its input."""

    def forward(self, x: Tensor, shift: Tensor, *, context: Tensor) -> Tensor:
        return x.copy_(super().forward(x.clone(), shift, context=context))


class TwoStreams(ToyBlock):
    """The same block on two tensors, video and text, each changed in place."""

    def forward(self, pair: tuple[Tensor, Tensor], shift: Tensor, *, context: Tensor) -> tuple[Tensor, Tensor]:
        result = super().forward(torch.cat(pair, dim=1), shift, context=context)
        return pair[0].copy_(result[:, :VIDEO]), pair[1].copy_(result[:, VIDEO:])


class InPlaceRunner(ToyRunner):
    in_place = True


class TwoStreamRunner(ToyRunner):
    in_place = True

    def entry(self, call: BlockCall) -> Tensor:
        return torch.cat(call.args[0], dim=1)

    def exit(self, result: Any) -> Tensor:
        return torch.cat(result, dim=1)

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        return hidden[:, :VIDEO], hidden[:, VIDEO:]

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        joined = BlockCall(call.index, call.block, call.original, (self.entry(call), *call.args[1:]), call.kwargs)
        return ToyRunner().forward_tokens(joined, selection, attend, need_lse)


KINDS = {
    "one stream": (OneStream, ToyRunner),
    "in place": (InPlace, InPlaceRunner),
    "two streams in place": (TwoStreams, TwoStreamRunner),
}


def blocks_of(kind: type[ToyBlock]) -> nn.ModuleList:
    blocks, generator = nn.ModuleList(kind() for _ in range(3)), torch.Generator().manual_seed(0)
    for parameter in blocks.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return blocks.requires_grad_(False)


def forward(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    """The stack on video and text tokens; gives the video's `[B, VIDEO, DIM]`."""
    text = torch.linspace(-1.0, 1.0, TEXT * DIM).view(1, TEXT, DIM).expand(x.shape[0], -1, -1)
    if isinstance(blocks[0], TwoStreams):
        state: Any = (x.clone(), text.clone())
        for block in blocks:
            state = block(state, SHIFT, context=CONTEXT)
        return state[0]
    hidden = torch.cat([x, text], dim=1)
    for block in blocks:
        hidden = block(hidden, SHIFT, context=CONTEXT)
    return hidden[:, :VIDEO]


def request(sigma: float, runner: Any, blocks: int) -> CallRequest:
    return CallRequest(
        sigma=sigma,
        groups=(RowGroup("cond", slice(0, 1)), RowGroup("uncond", slice(1, 2))),
        layout=TokenLayout(VIDEO, suffix=TEXT if runner is not None else 0),
        runner=runner,
        attend=toy_attend,
        blocks=blocks,
        device=torch.device("cpu"),
    )


def sample(kind: str, mode: str, cache: str) -> tuple[Tensor, list[str]]:
    """An Euler run of token steps; gives the end and the calls' kinds."""
    block, runner = KINDS[kind]
    blocks = blocks_of(block)
    run = Run.of(make_plan(periodic("p", [0.5, 0.3], SIGMAS[:-1], full_start=2), mode=mode, cache=cache), SIGMAS)
    x = torch.randn(2, VIDEO, DIM, generator=torch.Generator().manual_seed(1))
    for sigma, following in pairwise(SIGMAS):
        call = run.begin_call(request(sigma, runner(), len(blocks)))
        with patched_forwards(blocks, call):
            prediction = forward(blocks, x)
        x = x + (following - sigma) / sigma * (x - run.end_call(call, prediction))
    return x, [record.kind for record in run.finish().calls]


@pytest.mark.parametrize("cache", ["full", "fp8"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["in place", "two streams in place"])
def test_blocks_of_every_kind_give_what_plain_ones_give(kind: str, mode: str, cache: str) -> None:
    expected, kinds = sample("one stream", mode, cache)
    result, own_kinds = sample(kind, mode, cache)
    assert own_kinds == kinds
    assert kinds.count("token") == 6
    assert torch.equal(result, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_mode_paper_keeps_what_a_block_computes_for_all_tokens(kind: str) -> None:
    """The last block has to run for all tokens at a token step; at the next, a skipped step, it returns the same."""
    block, runner = KINDS[kind]
    blocks: Any = blocks_of(block)
    run = Run.of(make_plan(periodic("p", [0.5, 0.0], SIGMAS[:-1], full_start=1), mode="paper"), SIGMAS)
    x = torch.randn(2, VIDEO, DIM, generator=torch.Generator().manual_seed(1))
    outputs = []
    for step, sigma in enumerate(SIGMAS[:3]):
        blocks[-1].reason = "another node patches inside it" if step == 1 else ""
        call = run.begin_call(request(sigma, runner(), len(blocks)))
        with patched_forwards(blocks, call):
            outputs.append(forward(blocks, x * (1.0 - 0.1 * step)))
        run.end_call(call, outputs[-1])
    assert [record.kind for record in run.report.calls] == ["full", "token", "reuse"]
    assert torch.equal(outputs[2], outputs[1])
    for state in run.states:
        assert state.blocks is not None
        assert not state.blocks.ages[len(blocks) - 1].any()


@pytest.mark.parametrize("mode", MODES)
def test_another_number_of_tokens_begins_anew(mode: str) -> None:
    blocks = blocks_of(OneStream)
    run = Run.of(make_plan(periodic("p", [0.5], SIGMAS[:-1], full_start=2), mode=mode), SIGMAS)
    for sigma, video in zip(SIGMAS, (VIDEO, VIDEO, VIDEO, VIDEO - 8, VIDEO - 8), strict=False):
        x = torch.randn(2, video, DIM, generator=torch.Generator().manual_seed(1))
        asked = replace(request(sigma, ToyRunner(), len(blocks)), layout=TokenLayout(video, suffix=TEXT))
        call = run.begin_call(asked)
        with patched_forwards(blocks, call):
            prediction = forward(blocks, x)[:, :video]
        assert run.end_call(call, prediction).isfinite().all()
    calls = run.report.calls
    assert [call.kind for call in calls] == ["full", "full", "token", "full", "token"]
    assert [call.reason for call in calls] == ["", "", "", TOKENS_CHANGED, ""]


def test_a_block_that_runs_for_all_tokens_moves_the_older_residuals_of_selected_ones() -> None:
    """Mode `forecast` keeps two residuals per block, and when each token was computed for all blocks."""
    blocks: Any = blocks_of(OneStream)
    run = Run.of(make_plan(periodic("p", [0.5], SIGMAS[:-1], full_start=2), mode="forecast"), SIGMAS)
    x, last = torch.randn(2, VIDEO, DIM, generator=torch.Generator().manual_seed(1)), len(blocks) - 1
    before: dict[int, Tensor] = {}
    for step, sigma in enumerate(SIGMAS[:3]):
        if step == 2:
            blocks[last].reason = "another node patches inside it"
            kept = [state.tokens for state in run.states if state.tokens is not None]
            before = {index: tokens.store.read(2 * last).clone() for index, tokens in enumerate(kept)}
        call = run.begin_call(request(sigma, ToyRunner(), len(blocks)))
        with patched_forwards(blocks, call):
            run.end_call(call, forward(blocks, x * (1.0 - 0.1 * step)))
    assert run.report.calls[-1].reason == "1 of 3 blocks: another node patches inside it"
    for index, state in enumerate(run.states):
        assert state.tokens is not None
        newest, older = state.tokens.store.read(2 * last), state.tokens.store.read(2 * last + 1)
        selected = state.tokens.ages == 0.0
        assert 0 < selected.sum() < selected.numel()
        assert torch.equal(older[selected], before[index][selected])
        assert not torch.equal(newest, before[index])


def test_a_run_none_of_whose_blocks_can_run_in_part_skips_whole_steps_from_then_on() -> None:
    blocks: Any = blocks_of(OneStream)
    for block in blocks:
        block.reason = "another node patches inside it"
    run = Run.of(make_plan(periodic("p", [0.5], SIGMAS[:-1], full_start=1)), SIGMAS)
    x = torch.randn(2, VIDEO, DIM, generator=torch.Generator().manual_seed(1))
    for sigma in SIGMAS[:-1]:
        call = run.begin_call(request(sigma, ToyRunner(), len(blocks)))
        with patched_forwards(blocks, call):
            prediction = call.estimate() if isinstance(call, ReuseCall) else forward(blocks, x)
        run.end_call(call, prediction)
    kinds = [record.kind for record in run.report.calls]
    assert kinds[0] == "full"
    assert set(kinds) == {"full", "reuse"}
    assert all(state.store is None for state in run.states)
    reason = "every block has to run in full: another node patches inside it"
    assert f"whole steps are skipped instead of tokens: {reason}" in run.report.notes


def test_a_box_skips_whole_steps_and_no_tokens() -> None:
    box = describe_box("flux", "no adapter")
    layout = box.layout((2, 4, 3, 4, 4), {})
    assert (box.runner, box.limit, layout.total) == (None, "no adapter", 48)
    assert box.cost(layout, 12).speedup([1.0, 0.0, 0.0, 1.0]) == 2.0
    run = Run.of(make_plan(periodic("p", [0.4], SIGMAS[:-1], full_start=1)), SIGMAS, has_runner=False)
    assert set(run.budgets) == {0.0, 1.0}
    assert not run.needs_store
    kinds = []
    for sigma in SIGMAS[:-1]:
        call = run.begin_call(request(sigma, None, 0))
        prediction = call.estimate() if isinstance(call, ReuseCall) else torch.ones(2, VIDEO, DIM)
        assert torch.equal(run.end_call(call, prediction), torch.ones(2, VIDEO, DIM))
        kinds.append(call.kind)
    report = run.finish()
    assert set(kinds) == {"full", "reuse"}
    assert report.computed_share == pytest.approx(0.4, abs=0.1)


def test_mode_paper_computes_a_box_in_full_and_says_why() -> None:
    plan = make_plan(periodic("p", [0.4], SIGMAS[:-1]), mode="paper")
    run = Run.of(plan, SIGMAS, has_runner=False)
    assert run.budgets == [1.0] * 9
    assert run.report.notes == [
        "mode 'paper' works inside the model's blocks, which it cannot here: every step is computed"
    ]
