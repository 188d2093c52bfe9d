"""Attention to speech inside of Wan's blocks: HuMo's own, and the patch of InfiniteTalk's node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import kit
import pytest
import torch
import zoo
from kit import STEPS, build, dense, error, run
from test_wan_variants import takes_whole_steps

from astraea.models.wan import WanRunner

HUMO, TALK = "Wan 2.1 HuMo", "Wan 2.1 InfiniteTalk"


def runner_and_calls(sampled: zoo.Sampled) -> tuple[WanRunner, list[kit.Recorded]]:
    architecture, blocks = kit.record_blocks(sampled)
    assert isinstance(architecture.runner, WanRunner)
    return architecture.runner, blocks


def test_selected_tokens_hear_what_the_whole_block_lets_them_hear():
    """InfiniteTalk; HuMo goes through the kit."""
    runner, blocks = runner_and_calls(build(TALK))
    for block in blocks:
        call = block.call()
        x = runner.entry(call)
        selection = kit.some_tokens(block.layout, x.shape[0])
        assert runner.unsupported_reason(call) == ""
        residual, _ = runner.forward_tokens(call, selection, kit.attention(x.shape[1]))
        assert torch.allclose(residual, selection.gather(block.result) - selection.gather(x), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", [HUMO, TALK])
def test_speech_is_heard_in_token_steps(name):
    """A louder voice changes an accelerated run as it changes a dense one."""
    sampled = build(name)
    quiet = run(sampled)[0]
    louder(sampled)
    expected = kit.joined(zoo.sample(sampled, steps=STEPS))
    result, report = run(sampled)
    assert not any(call.reason for call in report.calls)
    assert error(expected, result) < 0.5 * error(expected, quiet)


def louder(sampled: zoo.Sampled) -> None:
    options = sampled.model.model_options.get("transformer_options", {})
    if "audio_embeds" in options:
        options["audio_embeds"] = -4.0 * options["audio_embeds"]
    for conditioning in (sampled.positive, sampled.negative):
        if "audio_embed" in conditioning[0][1]:
            conditioning[0][1]["audio_embed"] = 4.0 * torch.ones_like(conditioning[0][1]["audio_embed"])


def test_mode_paper_with_a_patch_for_speech():
    result, report = run(build(TALK), mode="paper")
    assert error(dense(TALK), result) < 0.7
    assert not any(call.reason for call in report.calls)
    assert 0.45 < report.computed_share < 0.75


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_a_patch_for_speech(dtype):
    with zoo.weights_in(dtype):
        sampled = build(TALK)
        expected = kit.joined(zoo.sample(sampled, steps=STEPS))
        result, report = run(sampled)
        shorter = kit.joined(zoo.sample(sampled, steps=STEPS // 2))
    assert error(expected, result) < error(expected, shorter)
    assert not any(call.reason for call in report.calls)


def test_two_speakers_leave_whole_steps():
    """Who is heard where depends on all tokens."""
    sampled = build(TALK)
    import comfy.ldm.wan.model_multitalk as host

    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[0, :8] = masks[1, 8:] = True
    sampled.model.set_model_patch(host.MultiTalkGetAttnMapPatch(masks), "attn1_patch")
    expected = kit.joined(zoo.sample(sampled, steps=STEPS))
    assert error(dense(TALK), expected) > 1e-3
    assert torch.equal(run(sampled, budget=1.0)[0], expected)
    result, report = run(sampled)
    assert error(expected, result) < error(expected, kit.joined(zoo.sample(sampled, steps=STEPS // 2)))
    assert takes_whole_steps(report, "no token steps: another node patches inside it (attn1_patch)")


def test_another_patch_beside_that_for_speech_leaves_whole_steps():
    sampled = build(TALK)
    sampled.model.set_model_patch(lambda given: given["x"] * 0.5, "attn2_patch")
    _, report = run(sampled)
    assert takes_whole_steps(report, "no token steps: another node patches inside it (attn2_patch)")


def test_speech_that_is_laid_out_otherwise_runs_a_block_in_full():
    runner, blocks = runner_and_calls(build(TALK))
    options = blocks[0].kwargs["transformer_options"]

    def reason(**changed: Any) -> str:
        kwargs = blocks[0].kwargs | {"transformer_options": {**options, **changed}}
        return runner.unsupported_reason(replace(blocks[0].call(), kwargs=kwargs))

    assert reason() == ""
    assert reason(grid_sizes=(4, 4, 5)) == "its attention to speech needs all tokens"
    assert reason(audio_embeds=torch.zeros(1, 3, 32, 16)) == "its attention to speech needs all tokens"
    assert reason(x_ref_attn_map=torch.zeros(2, 64)) == "its attention to speech needs all tokens"
    assert reason(audio_embeds=None).startswith("InfiniteTalk's code has changed")
    assert reason(block_index=99).startswith("InfiniteTalk's code has changed")


def test_replaced_attention_to_speech_is_respected():
    sampled = build(HUMO)
    wrapper = sampled.model.model.diffusion_model.blocks[1].audio_cross_attn_wrapper.audio_cross_attn
    original = wrapper.forward
    wrapper.forward = lambda *args, **kwargs: original(*args, **kwargs) * 0.5
    _, report = run(sampled)
    reason = "1 of 4 blocks: another node has replaced its attention to speech"
    assert {call.reason for call in report.calls if call.kind == "token"} == {reason}
