"""Blocks with a stream of another width than the video's: it is computed in full, and kept beside the hidden states."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_blocks import CONTEXT, SHIFT, SIGMAS, TEXT, VIDEO, OneStream, blocks_of, forward, request
from torch import Tensor, nn
from torch.nn import functional
from toy_transformer import DIM, ToyBlock, ToyRunner

from astraea.engine.blocks.interface import Attend, BlockCall, TokenLayout
from astraea.engine.blocks.selection import Selection
from astraea.engine.calls import ModelCall
from astraea.engine.calls.block_hooks import patched_forwards
from astraea.engine.planning.modes import MODES
from astraea.engine.planning.plan import make_plan
from astraea.engine.run import NOTHING_KEPT, Run
from astraea.schedules import Schedule, periodic


def joined(video: Tensor, text: Tensor) -> Tensor:
    return torch.cat([video, text[..., :DIM]], dim=1)


def widened(text: Tensor) -> Tensor:
    """The text `[B, L, DIM]` with three more channels."""
    return functional.pad(text, (0, 3), value=1.0)


class TwoWidths(ToyBlock):
    """The block of one stream on two tensors, whose text is wider than its video."""

    def forward(self, video: Tensor, text: Tensor, shift: Tensor, *, context: Tensor) -> tuple[Tensor, Tensor]:
        result = super().forward(joined(video, text), shift, context=context)
        return result[:, :VIDEO], widened(result[:, VIDEO:])


class TwoWidthsRunner(ToyRunner):
    def exit(self, result: Any) -> Tensor:
        return result[0]

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        return hidden, call.other_streams["text"]

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        video, text, shift = call.args
        others = torch.arange(VIDEO, VIDEO + TEXT).expand(video.shape[0], -1)
        chosen = Selection(torch.cat([selection.indices, others], dim=1), VIDEO + TEXT)
        plain = BlockCall(call.index, call.block, call.original, (joined(video, text), shift), call.kwargs)
        residual, lse = ToyRunner().forward_tokens(plain, chosen, attend, need_lse)
        call.other_streams["text"] = widened(text[..., :DIM] + residual[:, selection.count :])
        return residual[:, : selection.count], None if lse is None else lse[:, : selection.count]


def forward_two(blocks: nn.ModuleList, video: Tensor) -> Tensor:
    text = widened(torch.linspace(-1.0, 1.0, TEXT * DIM).view(1, TEXT, DIM).expand(video.shape[0], -1, -1))
    for block in blocks:
        video, text = block(video, text, SHIFT, context=CONTEXT)
    return video


@dataclass
class Sampled:
    """The end of an Euler run and its calls as `kind reason`; by call, each block's result and what it would be."""

    end: Tensor
    calls: list[str]
    blocks: list[list[tuple[Any, Any]]]


def sample(two_widths: bool, schedule: Schedule, mode: str | None, blocked: Collection[int] = ()) -> Sampled:
    """An Euler run of blocks of one width or of two. blocked: steps at which the last block runs in full."""
    blocks: Any = blocks_of(TwoWidths if two_widths else OneStream)
    run, seen = Run.of(make_plan(schedule, mode=mode), SIGMAS), []
    x = torch.randn(2, VIDEO, DIM, generator=torch.Generator().manual_seed(1))
    for step, (sigma, following) in enumerate(pairwise(SIGMAS)):
        blocks[-1].reason = "another node patches inside it" if step in blocked else ""
        asked = request(sigma, ToyRunner(), len(blocks))
        if two_widths:
            asked = replace(asked, runner=TwoWidthsRunner(), layout=TokenLayout(VIDEO))
        call = run.begin_call(asked)
        seen.append(noted(call))
        with patched_forwards(blocks, call):
            prediction = forward_two(blocks, x) if two_widths else forward(blocks, x)
        x = x + (following - sigma) / sigma * (x - run.end_call(call, prediction))
    assert run.states.nbytes > 0
    return Sampled(x, [f"{call.kind} {call.reason}".strip() for call in run.finish().calls], seen)


def noted(call: ModelCall) -> list[tuple[Any, Any]]:
    """Each block's result in a model call, and what the block itself gives for the same input, once they have run."""
    found, original = [], call.run_block

    def run_block(block: BlockCall) -> Any:
        expected = type(block.block).forward(block.block, *block.args, **block.kwargs)
        found.append((original(block), expected))
        return found[-1][0]

    call.run_block = run_block  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "paper"])
def test_token_steps_compute_the_whole_stream(mode: str) -> None:
    """Of the hidden states that a block is given, be they estimated or not, the text gets what the block would give."""
    result = sample(True, periodic("p", [0.5, 0.3], SIGMAS[:-1], full_start=2), mode)
    assert result.calls.count("token") == 6
    for kind, blocks in zip(result.calls, result.blocks, strict=True):
        for (video, text), (expected_video, expected_text) in blocks:
            assert torch.allclose(text, expected_text, atol=1e-5)
            assert torch.allclose(video, expected_video, atol=1e-5) == (kind != "token")


@pytest.mark.parametrize("budgets", [[0.5, 0.3], [0.5, 0.0], [0.0]])
def test_mode_paper_gives_what_it_gives_for_blocks_of_one_width(budgets: list[float]) -> None:
    schedule = periodic("p", budgets, SIGMAS[:-1], full_start=1)
    result, expected = sample(True, schedule, "paper"), sample(False, schedule, "paper")
    assert result.calls == expected.calls
    assert ("reuse" in result.calls) == (0.0 in budgets)
    assert torch.allclose(result.end, expected.end, atol=1e-5)


def test_mode_paper_keeps_the_whole_output_of_a_block() -> None:
    """At a skipped step a block returns both streams as it computed them last."""
    result = sample(True, periodic("p", [0.5, 0.0], SIGMAS[:-1], full_start=1), "paper")
    for earlier, later, kind in zip(result.blocks, result.blocks[1:], result.calls[1:], strict=False):
        for (before, _), (after, _) in zip(earlier, later, strict=False):
            is_kept = all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
            assert is_kept == (kind == "reuse")


def test_mode_paper_begins_anew_after_a_block_that_ran_in_full() -> None:
    """Of such a block only the hidden states are known."""
    schedule = periodic("p", [0.5, 0.0], SIGMAS[:-1], full_start=1)
    result, expected = (sample(two, schedule, "paper", blocked=[1]) for two in (True, False))
    assert expected.calls[2] == "reuse"
    assert result.calls[2] == f"full {NOTHING_KEPT}"
