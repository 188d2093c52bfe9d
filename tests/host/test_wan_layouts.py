"""Where the video's tokens lie among a Wan call's, and that a run expects as many before it has begun."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
import zoo
from zoo.wan import WAN

from astraea.engine.blocks.interface import TokenLayout
from astraea.host.sampling.architectures import architecture_of
from astraea.host.sampling.guiders import expected_conditions

WITH_TOKEN_STEPS = [entry.name for entry in WAN if entry.name in (*kit.ADAPTED, *kit.ALIKE)]
AROUND = {
    "Wan 2.1 Phantom": (0, 64, 32),  # two subjects
    "Wan 2.1 Bernini": (0, 64, 80),  # a picture and a clip
    "Wan 2.1 SCAIL": (16, 64, 16),  # a reference, four poses of half the size
    "Wan 2.1 SCAIL-2": (16, 64, 16),
    "Wan 2.1 HuMo": (0, 64, 16),
    "Wan 2.2 S2V": (0, 64, 40),  # a reference, and 16 + 4 + 4 tokens of earlier frames
    "Wan 2.2 Fun Control": (16, 64, 0),
    "Wan 2.2 Animate": (0, 80, 0),
}


def test_every_wan_has_token_steps_but_two():
    assert {entry.name for entry in WAN} - set(WITH_TOKEN_STEPS) == {"Wan Animate 2", "Wan 2.1 CausalAR"}


def first_inputs(name: str, seed: int) -> tuple[torch.Tensor, TokenLayout]:
    """The first block's input at the first step, and the call's layout."""
    sampled = kit.build(name)
    architecture, found = architecture_of(sampled.model), []
    model = sampled.model.clone()

    def note_layout(executor: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(architecture.layout(tuple(args[0].shape), {**kwargs, "c_crossattn": args[3]}))
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("apply_model", "test", note_layout)
    with kit.recorded(architecture) as blocks:
        zoo.sample(sampled, model, steps=1, seed=seed)
    assert architecture.runner is not None
    return architecture.runner.entry(blocks[0].call()), found[-1]


@pytest.mark.parametrize("name", WITH_TOKEN_STEPS)
def test_noise_reaches_the_videos_tokens_alone(name):
    """What lies before and behind them is the same for all noise."""
    (first, layout), (second, _) = first_inputs(name, 1), first_inputs(name, 2)
    changed = (first != second).any(-1)
    expected = torch.zeros_like(changed)
    expected[:, layout.video_slice] = True
    if name in ("Wan 2.1 InfiniteTalk", "Wan 2.2 5B image to video"):
        expected[:, :16] = False  # the first frame stays
    if name != "Wan 2.1 FlowRVS":  # it begins with a video in place of noise
        assert torch.equal(changed, expected)
    assert first.shape[1] == layout.total
    before, video, behind = AROUND.get(name, (0, 64, 0))
    assert (layout.prefix, layout.video, layout.suffix) == (before, video, behind)


@pytest.mark.parametrize("name", WITH_TOKEN_STEPS)
def test_a_run_expects_the_tokens_that_it_will_have(name):
    """They decide what is announced to the host, and what a target speed-up takes."""
    sampled, expected = kit.build(name), []
    architecture = architecture_of(sampled.model)
    model = sampled.model.clone()

    def note_expected(executor: Any, noise: Any, *args: Any, **kwargs: Any) -> Any:
        conditions = expected_conditions(executor.class_obj, tuple(noise.shape), None)
        expected.append(architecture.layout(tuple(noise.shape), conditions))
        return executor(noise, *args, **kwargs)

    model.add_wrapper_with_key("outer_sample", "test", note_expected)
    zoo.sample(sampled, model, steps=1)
    before, video, behind = AROUND.get(name, (0, 64, 0))
    assert (expected[0].prefix, expected[0].video, expected[0].suffix) == (before, video, behind)
