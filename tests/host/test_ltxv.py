"""LTXV beyond the kit: guide frames, both kinds of positions, what runs in full; LTX-2 takes whole steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from kit import STEPS, attention, build, error, joined, record_blocks, run, some_tokens
from zoo.base import Sampled, empty_latent, make_model, prompts, random
from zoo.video import LTX

from astraea.host.sampling.architectures import architecture_of


def guided(*, dilated: bool = False, **extra: Any) -> Sampled:
    """A guide frame behind the four of the video. dilated: known at every second place in both directions."""
    sampled = build("LTXV")
    height, width = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    places = torch.stack([torch.zeros_like(height), 32 * height, 32 * width]).flatten(1)[None]
    if hasattr(sampled.model.model.diffusion_model, "_process_input"):  # this host reads where a place begins and ends
        places = torch.stack([places, places + torch.tensor([1, 32, 32]).view(1, 3, 1)], -1)
    elif dilated or extra:
        pytest.skip("this ComfyUI takes guides as they are")
    mask = torch.ones(1, 1, 5, 8, 8)
    mask[:, :, 4] = -2.0 if dilated else 0.0
    mask[:, :, 4, ::2, ::2] = 0.0
    for conditioning in (sampled.positive, sampled.negative):
        conditioning[0][1].update(keyframe_idxs=places.float(), **extra)
    sampled.latent = {"samples": random(1, 128, 5, 8, 8, seed=21), "noise_mask": mask}
    return sampled


def check_tokens_beat_half_the_steps(sampled: Sampled, tokens: int) -> None:
    expected = joined(zoo.sample(sampled, steps=STEPS))
    assert torch.equal(run(sampled, budget=1.0)[0], expected)
    result, report = run(sampled)
    assert error(expected, result) < error(expected, joined(zoo.sample(sampled, steps=STEPS // 2)))
    assert not any(call.reason for call in report.calls)
    assert {call.tokens for call in report.calls} == {tokens}


@pytest.mark.parametrize(("dilated", "tokens"), [(False, 5 * 64), (True, 4 * 64 + 16)])
def test_guide_frames(dilated, tokens):
    check_tokens_beat_half_the_steps(guided(dilated=dilated), tokens)


def test_weighted_guides_take_whole_steps():
    entry = {"pre_filter_count": 64, "strength": 0.5, "pixel_mask": None, "latent_shape": [1, 8, 8]}
    sampled = guided(guide_attention_entries=[entry])
    summary = run(sampled)[1].summary()
    assert "every block has to run in full: guide frames are weighted within its self-attention" in summary


def test_a_block_with_another_self_attention_runs_in_full():
    sampled = build("LTXV")
    sampled.model.model.diffusion_model.transformer_blocks[2].attn1.forward = lambda x, **options: 0.5 * x
    reasons = {call.reason for call in run(sampled)[1].calls if call.reason}
    assert reasons == {"1 of 4 blocks: another node has replaced its self-attention"}


def test_spatio_temporal_guidance_takes_whole_steps():
    sampled = build("LTXV")
    sampled.model.model_options["transformer_options"]["stg_skip_self_attn"] = True
    summary = run(sampled)[1].summary()
    assert "every block has to run in full: another node leaves out its self-attention" in summary


def variant(batch: int = 1, **sizes: Any) -> Sampled:
    model = make_model("LTXV", "LTXV", caption_channels=48, **(LTX | sizes))
    return Sampled(model, **prompts(48, padding=3, frame_rate=25), latent=empty_latent(batch, 128, 4, 8, 8))


def check_selected_tokens(sampled: Sampled) -> None:
    architecture, blocks = record_blocks(sampled)
    block, runner = blocks[-1], architecture.runner
    before, after = runner.entry(block.call()), runner.exit(block.result)
    chosen = some_tokens(block.layout, before.shape[0])
    residual, _ = runner.forward_tokens(block.call(), chosen, attention(before.shape[1]))
    assert torch.allclose(residual, chosen.gather(after) - chosen.gather(before), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("batch", [1, 2])
def test_positions_that_turn_the_halves_of_a_head(batch):
    check_selected_tokens(variant(batch, rope_type="split"))


def test_gates_of_heads():
    sampled = build("LTXV")
    for block in sampled.model.model.diffusion_model.transformer_blocks:
        if not hasattr(block.attn1, "to_gate_logits"):
            pytest.skip("this ComfyUI has no gates")
        block.attn1.to_gate_logits = torch.nn.Linear(64, 2)
    check_selected_tokens(sampled)


def test_a_cross_attention_modulated_by_the_noise_level_has_no_token_steps():
    model = variant(cross_attention_adaln=True).model
    if not getattr(model.model.diffusion_model.transformer_blocks[0], "cross_attention_adaln", False):
        pytest.skip("this ComfyUI knows no such model")
    assert architecture_of(model).limit == "no token steps: its cross-attention is modulated by the noise level"


@pytest.mark.parametrize("name", ["LTX-2 audio+video", "LTX-2.3 audio+video"])
def test_with_audio_there_are_whole_steps_alone(name):
    architecture = architecture_of(build(name).model)
    assert (architecture.family, architecture.runner) == ("ltxav", None)
    assert architecture.limit == "no token steps: within a block the audio attends to every video token"
