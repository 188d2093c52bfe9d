"""Mochi: its text, which is no part of the hidden states, and nodes that change its blocks."""

from __future__ import annotations

import kit
import torch
from kit import build, dense, error, run

from astraea.host.sampling.architectures import architecture_of
from astraea.schedules import periodic

NAME = "Mochi"


def test_text_is_no_part_of_the_hidden_states_but_of_the_cost():
    architecture = architecture_of(build(NAME).model)
    layout = architecture.layout((1, 12, 4, 8, 8), {})
    assert (layout.prefix, layout.video, layout.suffix) == (0, 4 * 4 * 4, 0)
    short, long = (architecture.cost(layout, text) for text in (16, 256))
    assert long.relative_cost(0.5) > short.relative_cost(0.5)
    assert long.relative_cost(1.0) == 1.0


def test_skipped_steps_in_mode_paper_keep_the_text():
    sampled = build(NAME)
    levels = dict.fromkeys(call.sigma for call in run(sampled, budget=1.0, steps=16)[1].calls)
    schedule = periodic("paper", [1.0, 0.5, 0.0], list(levels), full_start=1)
    result, report = run(sampled, schedule=schedule, mode="paper", steps=16)
    assert {call.kind for call in report.calls} == {"full", "token", "reuse"}
    assert not any(call.reason for call in report.calls)
    assert error(dense(NAME, 16), result) < 0.5


def test_another_nodes_attention_is_kept():
    sampled = build(NAME)
    first, *others = sampled.model.model.diffusion_model.blocks
    first.attn.forward = first.attn.forward
    _, report = run(sampled)
    assert kit.reasons(report) == {"1 of 4 blocks: another node has replaced its attention"}
    for block in others:
        block.attn.forward = block.attn.forward
    _, report = run(sampled)
    assert kit.whole_steps_because(report, "another node has replaced its attention")


def test_nodes_that_call_the_block_themselves_compose():
    sampled = build(NAME)
    expected, _ = run(sampled)
    hooked = sampled.model.clone()
    for index in range(4):
        replaced = hooked.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault("dit", {})
        replaced["double_block", index] = lambda arguments, extra: extra["original_block"](arguments)
    result, report = run(sampled, model=hooked)
    assert not any(call.reason for call in report.calls)
    assert torch.equal(result, expected)
    assert error(kit.dense(NAME), result) < 0.5
