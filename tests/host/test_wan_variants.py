"""Every supported Wan variant: selected rows agree with the block's own forward; all else runs in full."""

from __future__ import annotations

from typing import Any

import comfy.ldm.wan.model as wan
import pytest
import torch
import zoo
from kit import STEPS, attention, build, dense, error, joined, record_blocks, run, some_tokens
from sampling import LONG, PROMPT, TOKENS, WHOLE, accelerated, conditioning, keeps, last, psnr, random_wan, sample

from astraea.engine.blocks.interface import BlockCall
from astraea.engine.blocks.selection import Selection
from astraea.engine.planning.plan import make_plan
from astraea.engine.report import ReportHandle
from astraea.engine.run import Run
from astraea.host.sampling.architectures import architecture_of, cast_like
from astraea.host.sampling.attention import RunAttention
from astraea.host.sampling.patch_model import accelerate, family_of
from astraea.models.wan import WanRunner
from astraea.schedules import flow_sigmas, periodic

CLIP_VISION = torch.randn(1, 257, 1280, generator=torch.Generator().manual_seed(5))


class ClipVision:
    penultimate_hidden_states = CLIP_VISION


def reference_frame() -> torch.Tensor:
    return torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def i2v() -> tuple[Any, dict]:
    model = random_wan(model_type="i2v", in_dim=36)
    extra = {"clip_vision_output": ClipVision(), "concat_latent_image": torch.zeros(1, 16, 4, 8, 8)}
    extra["concat_mask"] = torch.ones(1, 1, 4, 8, 8)
    return model, {"positive": conditioning(PROMPT, **extra), "negative": conditioning("", **extra)}


def reference() -> tuple[Any, dict]:
    model = random_wan(in_dim_ref_conv=16)
    extra = {"reference_latents": [reference_frame()]}
    return model, {"positive": conditioning(PROMPT, **extra), "negative": conditioning("", **extra)}


def vace() -> tuple[Any, dict]:
    model = random_wan("VaceWanModel", model_type="vace", vace_layers=2, vace_in_dim=96)
    frames = torch.randn(1, 32, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    extra = {"vace_frames": [frames], "vace_mask": [torch.ones(1, 64, 4, 8, 8)], "vace_strength": [1.0]}
    return model, {"positive": conditioning(PROMPT, **extra), "negative": conditioning("", **extra)}


def per_frame() -> tuple[Any, dict]:
    """Wan 2.2 5B: 48 channels; a mask over the first frame gives every frame a time of its own."""
    model = random_wan(in_dim=48, out_dim=48)
    mask = torch.ones(1, 1, 4, 8, 8)
    mask[:, :, 0] = 0.0
    return model, {"latent": torch.randn(1, 48, 4, 8, 8), "noise_mask": mask}


def text_to_video() -> tuple[Any, dict]:
    return random_wan(), {}


VARIANTS = {"t2v": text_to_video, "i2v": i2v, "reference": reference, "vace": vace, "5b-per-frame": per_frame}


@pytest.fixture(params=VARIANTS)
def variant(request):
    return VARIANTS[request.param]()


def test_full_budget_is_bit_identical(variant):
    model, options = variant
    assert torch.equal(sample(model, **options), sample(accelerated(model, budget=1.0)[0], **options))


@pytest.mark.parametrize("schedule", [TOKENS, WHOLE], ids=["tokens", "whole"])
def test_accelerated_run_is_close_and_never_falls_back(variant, schedule):
    model, options = variant
    fast, handle = accelerated(model, schedule, budget=0.5)
    dense, result = sample(model, steps=12, **options), sample(fast, steps=12, **options)
    report = last(handle)
    assert torch.isfinite(result).all()
    assert psnr(dense, result) > 20.0
    assert not any(call.reason for call in report.calls)
    assert keeps(report, 0.5, schedule)


class Recorder:
    """Keeps the arguments of one block call."""

    def __init__(self, block: torch.nn.Module):
        self.block, self.original = block, block.forward
        self.calls: list[tuple] = []

    def __enter__(self):
        def forward(*args, **kwargs):
            output = self.original(*args, **kwargs)
            self.calls.append((args, kwargs, output.clone()))
            return output

        self.block.forward = forward
        return self

    def __exit__(self, *error):
        del self.block.forward


def test_selected_rows_equal_the_rows_of_the_whole_block(variant):
    model, options = variant
    block = model.model.diffusion_model.blocks[1]
    with Recorder(block) as recorder:
        sample(model, steps=2, **options)
    args, kwargs, output = recorder.calls[-1]
    x = args[0]
    indices = torch.stack([torch.randperm(x.shape[1])[: x.shape[1] // 3].sort().values for _ in range(x.shape[0])])
    selection = Selection(indices.to(x.device), x.shape[1])
    runner = WanRunner(cast_like)
    writer = Run.of(make_plan(periodic("r", [0.5], flow_sigmas(4))), [*flow_sigmas(4), 0.0]).writer
    attend = RunAttention("host", writer).for_call({}, x.shape[1])
    call = BlockCall(0, block, block.forward, args, kwargs)
    residual, _ = runner.forward_tokens(call, selection, attend)
    expected = selection.gather(output) - selection.gather(x)
    assert torch.allclose(residual, expected, atol=2e-5, rtol=1e-4)


def test_a_caller_may_leave_the_number_of_picture_tokens_to_the_block():
    sampled = build("Wan 2.1 image to video")
    for _, extra in (*sampled.positive, *sampled.negative):
        extra["clip_vision_output"] = ClipVision()
    architecture, blocks = record_blocks(sampled)
    call = blocks[1].call()
    assert call.kwargs.pop("context_img_len") == 257
    selection = some_tokens(blocks[1].layout, 1)
    residual, _ = architecture.runner.forward_tokens(call, selection, attention(selection.tokens))
    expected = selection.gather(blocks[1].result) - selection.gather(call.args[0])
    assert torch.allclose(residual, expected, atol=2e-4, rtol=1e-3)


def takes_whole_steps(report: Any, reason: str) -> bool:
    """Whether a run that was asked for token steps took whole ones, kept nothing per block, and said why."""
    whole = report.counts()["reuse"] > 0 and not report.counts()["token"] and report.computed_share <= 0.5
    return whole and report.cache_policy == "whole steps" and any(reason in note for note in report.notes)


def test_unknown_wan_variant_takes_whole_steps_and_says_why():
    model = random_wan()
    expected = sample(model)
    model.model.diffusion_model.__class__ = type("ReshapedWanModel", (wan.WanModel,), {})
    assert family_of(model) == ("wan", "")
    fast, handle = accelerated(model, budget=0.5)
    assert psnr(expected, sample(fast)) > 20.0
    reason = "whole steps; no token steps: the Wan variant ReshapedWanModel is not supported yet"
    assert takes_whole_steps(last(handle), reason)


def test_changed_block_signature_takes_whole_steps_and_says_why():
    def forward(self, hidden, modulation, positions, text):
        raise AssertionError

    model = random_wan()
    changed = type("WanAttentionBlock", (wan.WanAttentionBlock,), {"forward": forward})
    model.model.diffusion_model.blocks[2].__class__ = changed
    architecture = architecture_of(model)
    assert architecture.runner is None
    assert "WanAttentionBlock.forward has changed: it takes hidden, modulation" in architecture.limit


def test_animate_2_takes_whole_steps():
    """The host calls no `forward` of its blocks."""
    sampled = build("Wan Animate 2")
    result, report = run(sampled)
    assert error(dense("Wan Animate 2"), result) < error(dense("Wan Animate 2"), dense("Wan Animate 2", STEPS // 2))
    assert takes_whole_steps(report, "whole steps; no token steps: its blocks are called in two parts")


def test_frames_made_one_after_another_are_left_alone():
    sampled = build("Wan 2.1 CausalAR")
    family, reason = family_of(sampled.model)
    assert (family, "makes frames one after another" in reason) == ("any", True)
    handle = ReportHandle()
    fast = accelerate(sampled.model, make_plan(TOKENS, budget=0.5), handle)
    assert torch.equal(joined(zoo.sample(sampled, fast)), joined(zoo.sample(sampled)))
    assert f"passed through: {reason}" in last(handle).notes


def test_unknown_block_argument_runs_the_block_in_full():
    model = random_wan()
    runner = WanRunner(cast_like)
    block = model.model.diffusion_model.blocks[0]

    def reason(audio: torch.Tensor | None) -> str:
        return runner.unsupported_reason(BlockCall(0, block, block.forward, (), {"x": 1, "audio": audio}))

    assert reason(torch.ones(1)) == "it was called with audio"
    assert reason(None) == ""


def test_image_model_takes_whole_steps():
    """An image DiT that has no adapter."""
    model = image_model()
    fast, handle = accelerated(model, budget=0.5)
    picture = {"positive": image_conditioning(), "negative": image_conditioning(), "shape": (1, 16, 8, 8)}
    assert psnr(sample(model, **picture), sample(fast, **picture)) > 15.0
    assert takes_whole_steps(last(handle), "whole steps; ")


def image_conditioning() -> list:
    return [
        [torch.randn(1, 8, 4096, generator=torch.Generator().manual_seed(4)), {"pooled_output": torch.zeros(1, 2048)}]
    ]


def image_model() -> Any:
    """A small Stable Diffusion 3 with random weights."""
    import comfy.ldm.modules.diffusionmodules.mmdit as mmdit
    import comfy.ops
    import comfy.sd
    from sampling import random_weights

    settings = {"input_size": None, "pos_embed_scaling_factor": None, "pos_embed_max_size": 16, "patch_size": 2}
    settings |= {"in_channels": 16, "depth": 2, "adm_in_channels": 2048, "num_patches": 256}
    settings["context_embedder_config"] = {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 128},
    }
    module = mmdit.MMDiT(operations=comfy.ops.disable_weight_init, dtype=torch.float32, **settings)
    weights = random_weights(module)
    weights.setdefault("pos_embed", torch.zeros(1, 256, 128))
    return comfy.sd.load_diffusion_model_state_dict(weights)


def halve(arguments: dict) -> torch.Tensor:
    return arguments["x"] * 0.5


@pytest.mark.parametrize("patch", ["attn1_patch", "attn2_patch"])
def test_patches_inside_all_blocks_leave_whole_steps(patch, host_version):
    model = random_wan().clone()
    plain = sample(model)
    model.set_model_patch(halve, patch)
    dense = sample(model)
    assert torch.equal(plain, dense) == (host_version < (0, 11)), "ComfyUI 0.3 has no patches inside Wan blocks"
    fast, handle = accelerated(model, budget=0.5)
    assert psnr(dense, sample(fast)) > 20.0
    assert takes_whole_steps(last(handle), f"whole steps; no token steps: another node patches inside it ({patch})")
    fast, handle = accelerated(model, budget=0.5, mode="paper")
    assert torch.equal(sample(fast), dense)
    assert f"every step is computed; no token steps: another node patches inside it ({patch})" in last(handle).notes[0]


def halving(block: torch.nn.Module, calls: list) -> None:
    """Replaces a block's self-attention."""
    original = block.self_attn.forward

    def replaced(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs) * 0.5

    block.self_attn.forward = replaced


def test_replaced_self_attention_is_respected():
    model, calls = random_wan(), []
    halving(model.model.diffusion_model.blocks[1], calls)
    fast, handle = accelerated(model, budget=0.5)
    sample(fast, negative=conditioning(LONG))
    assert len(calls) == 16, "every call of the replaced attention is one of its own"
    assert any("replaced its self-attention" in note for note in last(handle).notes)


def test_replaced_self_attention_of_all_blocks_leaves_whole_steps():
    """Seen in the first full step: nothing says so before."""
    model = random_wan()
    for block in model.model.diffusion_model.blocks:
        halving(block, [])
    fast, handle = accelerated(model, budget=0.5)
    assert psnr(sample(model, steps=12), sample(fast, steps=12)) > 20.0
    report = last(handle)
    reason = "instead of tokens: every block has to run in full: another node has replaced its self-attention"
    assert f"whole steps are skipped {reason}" in report.notes
    assert report.counts()["reuse"] > 0
    assert not report.counts()["token"]


def test_attention_override_of_the_user_serves_selected_rows(load_tiny):
    """The hook through which SageAttention and the like are put in sees fewer queries than keys."""
    model = load_tiny().clone()
    lengths = set()

    def override(function, *args, **kwargs):
        lengths.add(args[0].shape[1] < args[1].shape[1])
        return function(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    sample(accelerated(model, budget=0.5)[0], negative=conditioning(PROMPT))
    assert True in lengths
