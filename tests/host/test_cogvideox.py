"""CogVideoX beyond the kit: sizes that are not whole patches, arguments that are not known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import zoo
from kit import STEPS, build, error, joined, record_blocks, run


@pytest.mark.parametrize("name", ["CogVideoX 5B image to video", "CogVideoX 1.5 image to video", "VOID"])
@pytest.mark.parametrize("size", [(5, 9, 11), (1, 8, 8), (6, 10, 7)])
def test_every_size_has_the_hosts_tokens(name, size):
    sampled = build(name)
    sampled.latent = {"samples": torch.zeros(1, 16, *size)}
    architecture, blocks = record_blocks(sampled, steps=1)
    assert architecture.runner.entry(blocks[0].call()).shape[1] == blocks[0].layout.total


def test_an_odd_number_of_frames_takes_token_steps():
    """Two latent frames are a token's: the host adds one and cuts it off."""
    sampled = build("CogVideoX 1.5 image to video")
    sampled.latent = {"samples": torch.zeros(1, 16, 7, 12, 12)}
    expected = joined(zoo.sample(sampled, steps=STEPS))
    result, report = run(sampled)
    assert error(expected, result) < error(expected, joined(zoo.sample(sampled, steps=STEPS // 2)))
    assert not any(call.reason for call in report.calls)


def test_a_block_with_an_argument_that_is_not_known_runs_in_full():
    architecture, blocks = record_blocks(build("CogVideoX 2B"), steps=1)
    call = blocks[0].call()
    assert architecture.runner.unsupported_reason(call) == ""
    masked = dataclasses.replace(call, kwargs={**call.kwargs, "attention_mask": torch.ones(1)})
    assert architecture.runner.unsupported_reason(masked) == "it was called with attention_mask"
