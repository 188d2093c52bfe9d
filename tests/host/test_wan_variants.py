"""Every supported Wan variant: selected rows agree with the block's own forward; all else runs in full."""

from __future__ import annotations

from typing import Any

import comfy.ldm.wan.model as wan
import pytest
import torch
from sampling import LONG, PROMPT, TOKENS, WHOLE, accelerated, conditioning, keeps, last, psnr, random_wan, sample

from astraea.engine.blocks.interface import BlockCall
from astraea.engine.blocks.selection import Selection
from astraea.engine.planning.plan import make_plan
from astraea.engine.run import Run
from astraea.errors import UnsupportedModel
from astraea.host.sampling.architectures import architecture_of, cast_like
from astraea.host.sampling.attention import RunAttention
from astraea.host.sampling.patch_model import family_of
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


def test_reference_frame_tokens_are_always_computed():
    model, _ = reference()
    architecture = architecture_of(model)
    layout = architecture.layout((2, 16, 4, 8, 8), {"reference_latent": reference_frame()[:, :, 0]})
    assert (layout.prefix, layout.video, layout.suffix) == (16, 64, 0)


def test_appended_frames_are_a_suffix():
    layout = architecture_of(random_wan()).layout((1, 16, 4, 8, 8), {"time_dim_concat": torch.zeros(1, 16, 2, 8, 8)})
    assert (layout.prefix, layout.video, layout.suffix) == (0, 64, 32)


def test_unknown_wan_variant_passes_through_with_the_reason(caplog):
    model = random_wan()
    expected = sample(model)
    model.model.diffusion_model.__class__ = type("ReshapedWanModel", (wan.WanModel,), {})
    family, reason = family_of(model)
    assert (family, reason) == ("any", "the Wan variant ReshapedWanModel is not supported yet")
    fast, handle = accelerated(model, budget=0.5)
    assert torch.equal(expected, sample(fast))
    assert "passes through unchanged" in last(handle).notes[0]
    assert "ReshapedWanModel" in caplog.text


def test_changed_block_signature_is_refused():
    def forward(self, hidden, modulation, positions, text):
        raise AssertionError

    model = random_wan()
    changed = type("WanAttentionBlock", (wan.WanAttentionBlock,), {"forward": forward})
    model.model.diffusion_model.blocks[2].__class__ = changed
    with pytest.raises(UnsupportedModel, match="has changed: it takes hidden, modulation"):
        architecture_of(model)


def test_unknown_block_argument_runs_the_block_in_full():
    model = random_wan()
    runner = WanRunner(cast_like)
    block = model.model.diffusion_model.blocks[0]

    def reason(audio: torch.Tensor | None) -> str:
        return runner.unsupported_reason(BlockCall(0, block, block.forward, (), {"x": 1, "audio": audio}))

    assert reason(torch.ones(1)) == "it was called with audio"
    assert reason(None) == ""


def test_image_model_passes_through():
    """An image DiT: no error, the same pictures, and the reason in report and log."""
    model = image_model()
    fast, handle = accelerated(model, budget=0.5)
    picture = {"positive": image_conditioning(), "negative": image_conditioning(), "shape": (1, 16, 8, 8)}
    assert torch.equal(sample(model, **picture), sample(fast, **picture))
    assert "are not supported" in last(handle).notes[0]


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


@pytest.mark.parametrize("patch", ["attn1_patch", "attn2_patch"])
def test_patches_inside_a_block_are_respected(patch, host_version):
    if host_version < (0, 11):
        pytest.skip("ComfyUI 0.3 has no patches inside Wan blocks")
    model, calls = random_wan(), []

    def halve(arguments):
        calls.append(1)
        return arguments["x"] * 0.5

    patched = model.clone()
    patched.set_model_patch(halve, patch)
    fast, handle = accelerated(patched, budget=0.5)
    assert torch.equal(sample(patched), sample(fast))
    assert calls
    assert any("patches inside it" in note for note in last(handle).notes)


def test_replaced_self_attention_is_respected():
    model = random_wan()
    attention = model.model.diffusion_model.blocks[1].self_attn
    original, calls = attention.forward, []

    def replaced(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs) * 0.5

    attention.forward = replaced
    fast, handle = accelerated(model, budget=0.5)
    sample(fast, negative=conditioning(LONG))
    assert len(calls) == 16, "every call of the replaced attention is one of its own"
    assert any("replaced its self-attention" in note for note in last(handle).notes)


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
