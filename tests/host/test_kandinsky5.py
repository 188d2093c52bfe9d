"""Kandinsky 5 beyond the kit: long videos, blocks that another node has changed."""

from __future__ import annotations

import torch
import zoo
from kit import STEPS, attention, build, error, joined, record_blocks, run, some_tokens


def test_chunks_above_8192_tokens_are_the_same_numbers():
    sampled = build("Kandinsky 5")
    sampled.latent = {"samples": torch.zeros(1, 16, 9, 62, 62)}
    architecture, blocks = record_blocks(sampled, steps=1)
    block, runner = blocks[-1], architecture.runner
    before, after = runner.entry(block.call()), runner.exit(block.result)
    assert before.shape[1] > 8192
    chosen = some_tokens(block.layout, before.shape[0], 0.05)
    residual, _ = runner.forward_tokens(block.call(), chosen, attention(before.shape[1]))
    assert torch.allclose(residual, chosen.gather(after) - chosen.gather(before), atol=2e-4, rtol=1e-3)


def test_a_block_with_another_self_attention_runs_in_full():
    sampled = build("Kandinsky 5")
    block = sampled.model.model.diffusion_model.visual_transformer_blocks[1]
    block.self_attention.forward = lambda x, freqs, transformer_options: 0.5 * x
    expected = joined(zoo.sample(sampled, steps=STEPS))
    result, report = run(sampled)
    assert error(expected, result) < error(expected, joined(zoo.sample(sampled, steps=STEPS // 2)))
    assert {call.reason for call in report.calls if call.kind == "token"} == {
        "1 of 4 blocks: another node has replaced its self-attention"
    }
