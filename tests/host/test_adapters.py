"""Every adapter proves itself: selected tokens are computed as the host would, saved work is real, full is exact.

The checks are those of `kit`; a model is added by its name there.
"""

from __future__ import annotations

import gc
import math
from typing import Any

import comfy.model_management
import kit
import pytest
import torch
import zoo
from kit import ADAPTED, ALIKE, STEPS, TOKENS, build, dense, error, run
from test_nothing_left_behind import live_state, traces

from astraea.engine.blocks.selection import Selection
from astraea.engine.planning.plan import make_plan
from astraea.engine.report import ReportHandle
from astraea.host.sampling.patch_model import accelerate
from astraea.schedules import flow_sigmas, uniform

every = pytest.mark.parametrize("name", [*ADAPTED, *ALIKE])
adapted = pytest.mark.parametrize("name", ADAPTED)


@every
def test_budget_1_is_bit_identical_and_half_the_tokens_beat_half_the_steps(name):
    sampled = build(name)
    assert torch.equal(run(sampled, budget=1.0)[0], dense(name))
    result, report = run(sampled)
    assert result.isfinite().all()
    assert error(dense(name), result) < error(dense(name), dense(name, STEPS // 2))
    assert not kit.reasons(report)
    assert {call.kind for call in report.calls} == {"full", "token"}
    assert 0.45 < report.computed_share < 0.75  # the first step is full
    assert torch.equal(kit.joined(zoo.sample(sampled, steps=STEPS)), dense(name))  # the plain model is as it was


@adapted
def test_selected_tokens_are_computed_as_by_the_whole_block(name):
    sampled = build(name)
    architecture, blocks = kit.record_blocks(sampled)
    runner = architecture.runner
    assert runner is not None
    for block in kit.kinds_of(blocks):
        before, after = runner.entry(block.call()), runner.exit(block.result)
        assert before.shape == after.shape
        assert before.shape[1] == block.layout.total
        selection = kit.some_tokens(block.layout, before.shape[0])
        for chosen in (selection, every_token(before)):
            for need_lse in (False, True):
                call = block.call()
                assert runner.unsupported_reason(call) == ""
                residual, lse = runner.forward_tokens(call, chosen, kit.attention(before.shape[1]), need_lse)
                expected = chosen.gather(after) - chosen.gather(before)
                close(residual, expected, f"{type(block.block).__name__} {block.index}, residuals [B, M, dim]")
                assert (None if lse is None else lse.shape) == (chosen.indices.shape if need_lse else None)
                assert torch.equal(runner.entry(call), before)  # the arguments are left as they were


def close(own: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Fails with the largest difference and its index."""
    torch.testing.assert_close(own, expected, atol=2e-4, rtol=1e-3, msg=lambda message: f"{what}: {message}")


def every_token(hidden: torch.Tensor) -> Selection:
    return Selection(torch.arange(hidden.shape[1]).expand(hidden.shape[0], -1), hidden.shape[1])


@adapted
def test_layout_says_where_the_videos_tokens_lie(name):
    """Other noise changes tokens of the video before the first block, and no others but those of other streams."""
    entries = []
    for seed in (0, 1):
        sampled = build(name)
        architecture, blocks = kit.record_blocks(sampled, steps=1, seed=seed)
        assert architecture.runner is not None
        entries.append(architecture.runner.entry(blocks[0].call()))
    changed, video = (entries[0] != entries[1]).any(-1).any(0), blocks[0].layout.video_slice
    assert changed[video].sum() > 0.5 * blocks[0].layout.video  # frames that are given stay as they are
    _, *streams = zoo.base.tensors(sampled.latent["samples"])
    outside = [at for at in changed.nonzero().flatten().tolist() if at not in range(video.start, video.stop)]
    assert len(outside) == sum(math.prod(each.shape[2:]) for each in streams)


@adapted
def test_in_place_is_told_truly(name):
    """A block that writes into its input is known as one: else what is kept of it would be nothing."""
    architecture, blocks = kit.record_blocks(build(name))
    assert architecture.runner is not None
    for block in kit.kinds_of(blocks):
        call = block.call()
        entry = architecture.runner.entry(call)
        before = entry.clone()
        call.run()
        assert architecture.runner.in_place or torch.equal(entry, before)


@adapted
def test_packed_result_is_what_the_block_would_return(name):
    architecture, blocks = kit.record_blocks(build(name))
    assert architecture.runner is not None
    for block in kit.kinds_of(blocks):
        call = block.call()
        hidden = architecture.runner.exit(block.result)
        selection = kit.some_tokens(block.layout, hidden.shape[0])
        architecture.runner.forward_tokens(call, selection, kit.attention(hidden.shape[1]))
        packed = architecture.runner.pack(hidden.clone(), call)
        assert type(packed) is type(block.result)
        assert torch.equal(architecture.runner.exit(packed), hidden)
        for own, expected in zip(streams_of(packed), streams_of(block.result), strict=True):
            close(own, expected, f"{type(block.block).__name__} {block.index}")  # streams of another width: in full


def streams_of(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


@adapted
def test_work_is_saved_as_the_cost_model_says(name):
    sampled = build(name)
    architecture = kit.architecture_of(sampled.model)
    everything = kit.multiplications(architecture, lambda: run(sampled, budget=1.0, steps=4))
    run(sampled, steps=4)  # the first such run may also time attention kernels
    reports = []
    # The host's attention: the choice of another times several within the first call.
    spent = kit.multiplications(architecture, lambda: reports.append(run(sampled, steps=4, attention="host")[1]))
    _, blocks = kit.record_blocks(sampled)
    text = sampled.positive[0][0].shape[1] if sampled.positive[0][0].ndim > 1 else None
    cost = architecture.cost(blocks[0].layout, text)
    calls = reports[0].calls
    expected = sum(cost.relative_cost(call.computed / call.tokens) for call in calls) / len(calls)
    assert spent / everything == pytest.approx(expected, abs=0.02)
    assert spent < 0.95 * everything


@adapted
def test_conditionings_in_one_call_or_in_two(name, monkeypatch):
    """Prompts of one length share a call where memory allows; the result does not depend on it.

    With mode hold: a fit over a handful of tokens that hardly differ multiplies rounding errors.
    """
    sampled = build(name)
    sampled.negative = [[sampled.positive[0][0] * 0.5, sampled.positive[0][1]]]
    try:
        zoo.sample(sampled, steps=2)
    except RuntimeError as reason:
        pytest.skip(f"the host cannot: {reason}")
    result, report = run(sampled, mode="hold")
    monkeypatch.setattr(type(sampled.model.model), "memory_required", lambda *a, **k: 10**15)
    split, other = run(sampled, mode="hold")
    assert len(other.calls) == 2 * STEPS
    assert len(report.calls) in (STEPS, 2 * STEPS)
    assert not kit.reasons(report) | kit.reasons(other)
    assert error(result, split) < 1e-4


@adapted
def test_two_clips_at_once(name):
    sampled = build(name)
    latent = sampled.latent["samples"]
    if zoo.base.tensors(latent)[0].shape[0] != 1:
        pytest.skip("its batch is made of frames")
    twice = [torch.cat([each] * 2) for each in zoo.base.tensors(latent)]
    sampled.latent = {**sampled.latent, "samples": twice[0] if len(twice) == 1 else type(latent)(twice)}
    try:
        expected = kit.joined(zoo.sample(sampled, steps=STEPS))
    except (ValueError, RuntimeError) as reason:
        pytest.skip(f"the host cannot: {reason}")
    assert torch.equal(run(sampled, budget=1.0)[0], expected)
    result, report = run(sampled)
    assert error(expected, result) < error(expected, kit.joined(zoo.sample(sampled, steps=STEPS // 2)))
    assert not kit.reasons(report)


@adapted
def test_tokens_that_are_not_the_videos_are_always_computed(name, monkeypatch):
    import astraea.engine.calls.token as token

    selections, original = [], token.select_tokens

    def select(score, count, video):
        selections.append((original(score, count, video), video))
        return selections[-1][0]

    monkeypatch.setattr(token, "select_tokens", select)
    run(build(name))
    assert selections
    for selection, video in selections:
        others = selection.tokens - (video.stop - video.start)
        for row in selection.indices:
            assert ((row < video.start) | (row >= video.stop)).sum() == others


@adapted
def test_mode_paper(name):
    result, report = run(build(name), mode="paper")
    assert error(dense(name), result) < 0.7
    assert not kit.reasons(report)
    assert 0.45 < report.computed_share < 0.75


@adapted
@pytest.mark.parametrize(
    ("dtype", "compute"), [(torch.float16, None), (torch.bfloat16, None), (torch.float8_e4m3fn, torch.float32)]
)
def test_narrow_weights(name, dtype, compute):
    with zoo.weights_in(dtype, compute):
        sampled = build(name)
        expected = kit.joined(zoo.sample(sampled, steps=STEPS))
        assert torch.equal(run(sampled, budget=1.0)[0], expected)
        result, report = run(sampled)
        shorter = kit.joined(zoo.sample(sampled, steps=STEPS // 2))
    assert error(expected, result) < error(expected, shorter)
    assert not kit.reasons(report)


@adapted
@pytest.mark.parametrize("mode", ["default", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_announced_bytes_are_allocated(name, dtype, mode):
    with zoo.weights_in(dtype):
        sampled = build(name)
        if dtype not in sampled.model.model.model_config.supported_inference_dtypes:
            pytest.skip("the host does not compute it in this dtype")
        # Prompts of one length: in one call, ComfyUI repeats others until their lengths agree.
        sampled.negative = [[sampled.positive[0][0] * 0.5, sampled.positive[0][1]]]
        _, report = run(sampled, mode=mode, steps=3)
    assert report.announced_bytes == pytest.approx(report.cache_bytes, rel=0.05)


@adapted
def test_lora(name):
    """A patch on every block's matrices counts in token steps as in full ones."""
    sampled = build(name)
    patched, count = with_patches(sampled.model)
    assert count
    expected = kit.joined(zoo.sample(sampled, patched, steps=STEPS))
    assert error(dense(name), expected) > 0.01
    assert torch.equal(run(sampled, model=patched, budget=1.0)[0], expected)
    result, _ = run(sampled, model=patched)
    assert error(expected, result) < error(dense(name), result)  # nearer to the patched model than to the plain one
    shorter = kit.joined(zoo.sample(sampled, patched, steps=STEPS // 2))
    assert error(expected, result) < error(expected, shorter)


def with_patches(model: Any) -> tuple[Any, int]:
    """A clone with a low-rank change of every matrix in the blocks, and the number of matrices."""
    architecture, patched = kit.architecture_of(model), model.clone()
    blocks = {id(module) for block in architecture.blocks for module in block.modules()}
    generator, patches = torch.Generator().manual_seed(3), {}
    for path, module in model.model.named_modules():
        weight = getattr(module, "weight", None)
        if id(module) in blocks and isinstance(weight, torch.Tensor) and weight.ndim == 2:
            up = torch.randn(weight.shape[0], 2, generator=generator)
            down = torch.randn(2, weight.shape[1], generator=generator)
            patches[f"{path}.weight"] = ("diff", (0.3 * up @ down / weight.shape[1] ** 0.5,))
    return patched, len(patched.add_patches(patches, 1.0))


@adapted
@pytest.mark.parametrize("schedule", [TOKENS, uniform("paper", 0.5, flow_sigmas(30))], ids=["tokens", "paper"])
def test_nothing_is_left(name, schedule):
    sampled = build(name)
    zoo.sample(sampled, steps=2)
    before = traces(sampled.model)
    fast = accelerate(
        sampled.model, make_plan(schedule, mode=schedule.name if schedule.name == "paper" else None), ReportHandle()
    )
    zoo.sample(sampled, fast, steps=4)
    assert traces(sampled.model) == before
    del fast
    gc.collect()
    assert not live_state()
    comfy.model_management.unload_all_models()
