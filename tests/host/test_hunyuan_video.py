"""HunyuanVideo in every shape of its input: text, references and images lie where the layout says, on every host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.conds
import comfy.controlnet
import kit
import pytest
import test_adapters
import torch
import zoo
from kit import STEPS, dense, error, run
from torch import Tensor
from zoo.base import Sampled, ZooModel, empty_latent, prompts, random
from zoo.video import ClipVision, hunyuan_15_image, hunyuan_15_model, hunyuan_model, hunyuan_replace

from astraea.engine.blocks.interface import BlockCall, TokenLayout
from astraea.errors import UnsupportedBlocks
from astraea.host.sampling.architectures import architecture_of
from astraea.models.hunyuan_video import describe_model

UPSCALER = "HunyuanVideo 1.5 upscaler"


def padded_text() -> Sampled:
    """The last three tokens of each text are masked."""
    model = hunyuan_model("HunyuanVideo", "HunyuanVideo")
    return Sampled(model, **prompts(48, pooled=24, padding=3), latent=empty_latent(1, 16, 4, 8, 8))


def reference() -> Sampled:
    """A reference image of another size in front of the video."""
    model = hunyuan_model("HunyuanVideo", "HunyuanVideo")
    text = prompts(48, pooled=24, ref_latent=random(1, 16, 1, 8, 6, seed=20))
    return Sampled(model, **text, latent=empty_latent(1, 16, 4, 8, 8))


def every_text() -> Sampled:
    """Text, byt5 text and an image embedding; double blocks alone, as in the real 1.5."""
    model = hunyuan_15_model("HunyuanVideo15", "HunyuanVideo15", in_channels=65, byt5=True, depth_single_blocks=0)
    more = {"conditioning_byt5small": random(1, 5, 1472, seed=21), "clip_vision_output": ClipVision(20, 32)}
    return Sampled(model, **prompts(48, **more), latent=empty_latent(1, 32, 4, 6, 6))


def picture() -> Sampled:
    """HunyuanImage: the same network on patches of two dimensions."""
    sizes = {"in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "axes_dim": [24, 24], "byt5": True}
    model = hunyuan_model("HunyuanImage21", "HunyuanImage21", vec_in_dim=None, guidance_embed=False, **sizes)
    more = {"conditioning_byt5small": random(1, 5, 1472, seed=21)}
    return Sampled(model, **prompts(48, **more), latent=empty_latent(1, 64, 12, 12))


VARIANTS: dict[str, Callable[[], Sampled]] = {
    "padded text": padded_text,
    "reference": reference,
    "every text": every_text,
    "picture": picture,
    "first frame replaced": hunyuan_replace,
    "image to video 1.5": hunyuan_15_image,
}


@pytest.fixture(params=VARIANTS)
def variant(request, monkeypatch) -> str:
    """A name under which the kit finds the variant."""
    name = f"HunyuanVideo, {request.param}"
    monkeypatch.setitem(zoo.MODELS, name, ZooModel(name, "video", "", VARIANTS[request.param]))
    return name


def test_half_the_tokens_beat_half_the_steps(variant):
    test_adapters.test_budget_1_is_bit_identical_and_half_the_tokens_beat_half_the_steps(variant)


def test_selected_tokens_are_computed_as_by_the_whole_block(variant):
    test_adapters.test_selected_tokens_are_computed_as_by_the_whole_block(variant)


def test_layout_is_exact(variant):
    """A change at one place of the latent changes the one token that the layout has there, and no other."""
    sampled = kit.build(variant)
    architecture, layouts, entries = architecture_of(sampled.model), [], []
    patch = sampled.model.model.diffusion_model.patch_size
    grid = [size // step for size, step in zip(sampled.latent["samples"].shape[-len(patch) :], patch, strict=True)]
    place = [size - 1 for size in grid[:-1]] + [1]

    def with_a_change(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        layouts.append(architecture.layout(tuple(x.shape), {**kwargs, "c_crossattn": args[2]}))
        changed = x.clone()
        changed[(..., *(at * step for at, step in zip(place, patch, strict=True)))] += 1.0
        for given in (x, changed):
            with kit.recorded(architecture) as blocks:
                result = executor(given, *args, **kwargs)
            entries.append(architecture.runner.entry(blocks[0].call()))
        return result

    model = sampled.model.clone()
    model.add_wrapper_with_key("apply_model", "test", with_a_change)
    zoo.sample(sampled, model, steps=1)
    position = 0
    for at, size in zip(place, grid, strict=True):
        position = position * size + at
    for layout, before, after in zip(layouts, entries[::2], entries[1::2], strict=True):
        assert layout.total == before.shape[1]
        differs = (before != after).any(-1)[0].nonzero().flatten().tolist()
        assert differs == [layout.prefix + position]


def test_counts_of_every_kind_of_token():
    model = kit.build("HunyuanVideo").model
    layout = architecture_of(model).layout
    text = {"c_crossattn": torch.zeros(1, 12, 48), "ref_latent": torch.zeros(1, 16, 1, 8, 6)}
    found = layout((1, 16, 4, 8, 8), text)
    assert (found.video, found.total) == (4 * 4 * 4, 4 * 4 * 4 + 12 + 4 * 3)
    assert layout((1, 16, 4, 8, 8), {}) == TokenLayout(video=64)  # a run begins before the host has processed them
    assert layout((1, 16, 4, 7, 8), {}) == TokenLayout(video=64)


def test_order_of_text_and_video_is_the_hosts(host_version):
    model = kit.build("HunyuanVideo").model
    found = architecture_of(model).layout((1, 16, 4, 8, 8), {"c_crossattn": torch.zeros(1, 12, 48)})
    assert (found.prefix, found.suffix) == ((12, 0) if host_version >= (0, 14) else (0, 12))


def test_mode_paper_with_two_modulations_and_a_mask(monkeypatch):
    """It needs log-sum-exps and a mask at once."""
    for name, build in {"replaced": hunyuan_replace, "masked": padded_text}.items():
        monkeypatch.setitem(zoo.MODELS, name, ZooModel(name, "video", "", build))
        result, report = run(kit.build(name), mode="paper")
        assert not [call.reason for call in report.calls if call.reason]
        assert error(dense(name), result) < 0.7


# --- numbers that fp16 cannot hold ------------------------------------------------------------------------------


def test_fp16_overflow_is_clipped_as_by_the_host():
    with zoo.weights_in(torch.float16):
        sampled = kit.build("HunyuanVideo")
        architecture, blocks = kit.record_blocks(sampled)
    runner = architecture.runner
    for block in kit.kinds_of(blocks):
        text = slice(block.layout.prefix) if block.layout.prefix else slice(block.layout.video, None)
        last_layer, clipped = (block.block.linear2, slice(None)) if block.args else (block.block.txt_mlp[-1], text)
        last_layer.bias.data.fill_(10000.0)
        for x in (*block.args, *(block.kwargs[name] for name in ("img", "txt") if name in block.kwargs)):
            x.copy_(torch.where(x > 0, 60000.0, -60000.0))
        call, expected = block.call(), runner.exit(block.call().run())
        hidden = runner.entry(call)
        residual, _ = runner.forward_tokens(call, test_adapters.every_token(hidden), kit.attention(hidden.shape[1]))
        found = runner.exit(runner.pack(hidden + residual, call))
        assert (expected[:, clipped].abs() == 65504).any()
        assert torch.allclose(found[:, clipped], expected[:, clipped], atol=64.0)


# --- other nodes ------------------------------------------------------------------------------------------------


class ControlNet(comfy.controlnet.ControlBase):
    """Adds to the video's tokens after every block."""

    def get_control(self, x_noisy: Tensor, *args: Any) -> dict:
        add = 0.5 * random(1, 64, 96, seed=23)
        return {"input": [add, add], "output": [None, add, add]}

    def copy(self) -> Any:
        return self


def test_controlnets_add_between_blocks():
    name = "HunyuanVideo"
    sampled = kit.build(name)
    for conditioning in (sampled.positive, sampled.negative):
        conditioning[0][1]["control"] = ControlNet()
    expected = kit.joined(zoo.sample(sampled, steps=STEPS))
    assert error(dense(name), expected) > 0.05
    assert torch.equal(run(sampled, budget=1.0)[0], expected)
    result, report = run(sampled)
    assert not [call.reason for call in report.calls if call.reason]
    assert error(expected, result) < error(expected, kit.joined(zoo.sample(sampled, steps=STEPS // 2)))


def test_replaced_blocks_of_other_nodes_run():
    """`patches_replace` wraps a block: both sorts are called within, for selected tokens."""
    sampled, calls = kit.build("HunyuanVideo"), []

    def replaced(args: dict, extra: dict) -> dict:
        out = extra["original_block"](args)
        calls.append(args["img"].shape)
        return {**out, "img": out["img"] * 0.9}

    model = sampled.model.clone()
    for block in (("double_block", 1), ("single_block", 0)):
        model.set_model_patch_replace(replaced, "dit", *block)
    expected = kit.joined(zoo.sample(sampled, model, steps=STEPS))
    assert error(dense("HunyuanVideo"), expected) > 0.05
    result, report = run(sampled, model=model)
    assert not [call.reason for call in report.calls if call.reason]
    assert error(expected, result) < error(expected, kit.joined(zoo.sample(sampled, model, steps=STEPS // 2)))


@pytest.mark.parametrize("patch", ["attn1_patch", "attn1_output_patch"])
def test_patches_inside_blocks_leave_whole_steps(patch, host_version):
    sampled, calls = kit.build("HunyuanVideo"), []

    def inside(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return args[0] * 0.5 if patch == "attn1_output_patch" else {"v": args[2] * 0.5}

    model = sampled.model.clone()
    model.set_model_patch(inside, patch)
    expected = kit.joined(zoo.sample(sampled, model, steps=STEPS))
    assert bool(calls) == (host_version >= (0, 14))
    result, report = run(sampled, model=model)
    assert {call.kind for call in report.calls} == {"full", "reuse"}
    assert f"whole steps; no token steps: another node patches inside it ({patch})" in report.summary()
    assert error(expected, result) < error(expected, kit.joined(zoo.sample(sampled, model, steps=STEPS // 2)))


def test_unknown_arguments_and_patches_of_one_call_make_a_block_run_in_full():
    architecture = architecture_of(kit.build("HunyuanVideo").model)
    patched = {"patches": {"attn1_patch": [None]}}
    for block, known in ((architecture.blocks[0], "img"), (architecture.blocks[-1], "x")):
        for more, reason in (
            ({"weather": 1}, "it was called with weather"),
            ({"weather": None, "transformer_options": {"patches": {}}}, ""),
            ({"transformer_options": patched}, "another node patches inside it (attn1_patch)"),
        ):
            call = BlockCall(0, block, block.forward, (), {known: 1, **more})
            assert architecture.runner.unsupported_reason(call) == reason


@pytest.mark.parametrize("which", ["double_blocks", "single_blocks"])
def test_changed_blocks_take_whole_steps(which):
    def forward(self: Any, hidden: Tensor, modulation: Tensor) -> Tensor:
        raise AssertionError

    model = kit.build("HunyuanVideo").model
    block = getattr(model.model.diffusion_model, which)[1]
    block.__class__ = type(type(block).__name__, (type(block),), {"forward": forward})
    with pytest.raises(UnsupportedBlocks, match="has changed: it takes hidden, modulation"):
        describe_model(model.model.diffusion_model, None)
    assert "has changed" in architecture_of(model).limit


# --- meanflow ---------------------------------------------------------------------------------------------------


def test_meanflow_is_computed_in_full_even_at_token_steps():
    """What it predicts is a mean on the way to the next noise level."""
    sampled = kit.build(UPSCALER)
    result, report = run(sampled)
    assert torch.equal(result, dense(UPSCALER))
    assert {call.kind for call in report.calls} == {"full"}
    assert all("predicts a mean on the way" in call.reason for call in report.calls)


def test_meanflow_that_is_switched_off_takes_token_steps(monkeypatch):
    sampled = kit.build(UPSCALER)
    original = type(sampled.model.model).extra_conds

    def extra_conds(self: Any, **kwargs: Any) -> dict:
        return {**original(self, **kwargs), "disable_time_r": comfy.conds.CONDConstant(True)}

    monkeypatch.setattr(type(sampled.model.model), "extra_conds", extra_conds)
    _, report = run(sampled)
    assert {call.kind for call in report.calls} == {"full", "token"}
