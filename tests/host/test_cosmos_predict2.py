"""Cosmos-Predict2: noise levels up to 80, nodes that change its blocks, sizes; Cosmos 1, which has other blocks."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
import zoo
from kit import TOKENS, build, error, run, whole_steps_because

from astraea.host.sampling.architectures import architecture_of
from astraea.schedules import flow_sigmas, periodic

VIDEO, IMAGE = "Cosmos-Predict2 with position embedding", "Cosmos-Predict2"
WHOLE = periodic("whole", [1.0, 0.0], flow_sigmas(30))


@pytest.mark.parametrize("sampler", ["euler", "res_multistep", "dpmpp_2m"])
@pytest.mark.parametrize("name", [VIDEO, IMAGE, "Cosmos-Predict2 image to video"])
def test_skipped_steps_on_noise_levels_up_to_80(name, sampler):
    """Its sigmas are those of a flow over 1 - those: levels go from 80/81 to 0, and forecasts are corrected."""
    sampled, options = build(name), {"steps": 16, "sampler": sampler}
    expected = kit.joined(zoo.sample(sampled, **options))
    result, report = run(sampled, schedule=WHOLE, **options)
    levels = [call.sigma for call in report.calls]
    assert levels[0] == pytest.approx(80 / 81)
    assert all(0.0 < level < 1.0 for level in levels)
    assert {call.kind for call in report.calls} == {"full", "reuse"}
    assert not any(call.reason for call in report.calls)
    shorter = kit.joined(zoo.sample(sampled, **(options | {"steps": 8})))
    assert error(expected, result) < kit.RANDOM * error(expected, shorter)
    uncorrected, _ = run(sampled, schedule=WHOLE, mode="forecast", **options)
    assert not torch.equal(result, uncorrected)


@pytest.mark.parametrize("patch", ["attn1_patch", "attn2_patch", "mlp_patch"])
def test_patches_inside_the_blocks_leave_whole_steps(patch):
    sampled, called = build(VIDEO), []

    def given(*args, **kwargs):
        called.append(patch)
        return args[0] if patch == "mlp_patch" else {}

    patched = sampled.model.clone()
    patched.set_model_patch(given, patch)
    zoo.sample(sampled, patched, steps=1)
    expected = len(called)  # none where the host's blocks do not look for patches
    _, report = run(sampled, model=patched)
    assert (len(called) > expected) == (expected > 0)
    assert whole_steps_because(report, f"another node patches inside it ({patch})")


def test_another_nodes_self_attention_is_kept():
    sampled = build(VIDEO)
    first, *others = sampled.model.model.diffusion_model.blocks
    replace_attention(first)
    _, report = run(sampled)
    assert kit.reasons(report) == {"1 of 4 blocks: another node has replaced its self-attention"}
    for block in others:
        replace_attention(block)
    _, report = run(sampled)
    assert whole_steps_because(report, "another node has replaced its self-attention")


def replace_attention(block: Any) -> None:
    own = block.self_attn.attn_op
    block.self_attn.attn_op = lambda q, k, v, **options: own(q, k, v, **options)


def test_frames_are_padded_to_whole_patches_and_references_come_behind():
    layout = architecture_of(build(VIDEO).model).layout
    assert layout((1, 16, 3, 7, 8), {}).total == 3 * 4 * 4
    references = [torch.zeros(1, 16, 2, 7, 8), torch.zeros(1, 16, 7, 8)]
    behind = layout((1, 16, 3, 7, 8), {"ref_latents": references})
    assert (behind.prefix, behind.video, behind.suffix) == (0, 3 * 16, 3 * 16)


def test_cosmos_1_takes_whole_steps_alone():
    name = "Cosmos 1"
    architecture = architecture_of(build(name).model)
    assert (architecture.runner, architecture.limit) == (None, "token steps need an adapter for GeneralDIT")
    result, report = run(build(name), schedule=TOKENS, steps=20)
    assert {call.kind for call in report.calls} == {"full", "reuse"}
    assert error(kit.dense(name, 20), result) < kit.RANDOM * error(kit.dense(name, 20), kit.dense(name, 10))
