"""At budget 1 the pack changes no bit, alone and together with what else users put on a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import comfy_extras.nodes_context_windows as context_windows
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_slg as slg
import pytest
import torch
from sampling import LONG, PROMPT, TOKENS, WHOLE, accelerated, conditioning, full, last, random_wan, sample

LONGER = {"shape": (1, 16, 5, 8, 8)}


def with_lora(model: Any) -> Any:
    """A low-rank change of every self-attention query, as a LoRA loader applies it."""
    clone, generator = model.clone(), torch.Generator().manual_seed(1)
    patches = {}
    for name, weight in model.model.state_dict().items():
        if name.endswith("self_attn.q.weight"):
            up, down = (torch.randn(weight.shape[0], 4, generator=generator) * 0.05 for _ in range(2))
            patches[name] = ("diff", (up @ down.T,))
    assert clone.add_patches(patches, 1.0), "the host took none of the patches"
    return clone


def with_easycache(model: Any) -> Any:
    return result(easycache.EasyCacheNode.execute(model, 0.5, 0.1, 0.95, False))


def with_slg(model: Any) -> Any:
    return result(slg.SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 0.9, double_layers="2, 3"))


def with_windows(model: Any) -> Any:
    node = context_windows.WanContextWindowsManualNode
    later = {"freenoise": False, "cond_retain_index_list": "", "split_conds_to_windows": False}
    known = inspect.signature(node.execute).parameters  # 0.19 asks for more than 0.3
    extra = {name: value for name, value in later.items() if name in known}
    return result(node.execute(model, 9, 5, "standard_static", 1, False, "pyramid", **extra))


def result(output: Any) -> Any:
    return output if hasattr(output, "model_options") else output[0]


COMPANIONS: dict[str, Callable[[Any], Any]] = {
    "lora": with_lora,
    "easycache": with_easycache,
    "slg": with_slg,
    "windows": with_windows,
}


def sampling_of(name: str) -> dict[str, Any]:
    # EasyCache of 0.3.64 mixes rows up when both conditionings share a call: there they get unequal lengths.
    return {"negative": conditioning(LONG)} if name == "easycache" else LONGER


def test_alone(load_tiny):
    model = load_tiny()
    assert torch.equal(sample(model), sample(full(model)))


@pytest.mark.parametrize("name", COMPANIONS)
def test_companion_before(load_tiny, name):
    model, options = COMPANIONS[name](load_tiny()), sampling_of(name)
    assert torch.equal(sample(model, **options), sample(full(model), **options))


@pytest.mark.parametrize("name", COMPANIONS)
def test_companion_after(load_tiny, name):
    model, options = load_tiny(), sampling_of(name)
    expected = sample(COMPANIONS[name](model), **options)
    assert torch.equal(expected, sample(COMPANIONS[name](full(model)), **options))
    assert not torch.equal(expected, sample(model, **options)), "the companion had no effect: nothing was tested"


def test_fp8_weights(load_tiny):
    model = load_tiny(torch.float8_e4m3fn)
    assert next(model.model.diffusion_model.blocks[0].self_attn.q.parameters()).dtype == torch.float8_e4m3fn
    assert torch.equal(sample(model), sample(full(model)))


def test_area_conditioning(load_tiny):
    model = load_tiny()
    left = conditioning(PROMPT, area=(4, 8, 4, 0, 0, 0), strength=1.0)
    options = {"positive": conditioning("a small white ring moving left over a red ground") + left}
    assert torch.equal(sample(model, **options), sample(full(model), **options))


def test_unequal_prompt_lengths(load_tiny):
    model, options = load_tiny(), {"negative": conditioning(LONG)}
    assert torch.equal(sample(model, **options), sample(full(model), **options))


def test_vace():
    model = random_wan("VaceWanModel", model_type="vace", vace_layers=2, vace_in_dim=96)
    options = {"positive": vace_conditioning(), "negative": vace_conditioning()}
    assert torch.equal(sample(model, **options), sample(full(model), **options))


def vace_conditioning() -> list:
    frames = torch.randn(1, 32, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    extra = {"vace_frames": [frames], "vace_mask": [torch.ones(1, 64, 4, 8, 8)], "vace_strength": [1.0]}
    return conditioning(PROMPT, **extra)


def test_two_branches_of_a_graph_share_a_model(load_tiny):
    model = load_tiny()
    expected = sample(model)
    fast, _ = accelerated(model, budget=0.5)
    exact = full(model)
    sample(fast)
    assert torch.equal(expected, sample(exact))
    assert torch.equal(sample(fast), sample(fast)), "the second run must not know of the first"


@pytest.mark.parametrize("schedule", [TOKENS, WHOLE], ids=["tokens", "whole"])
def test_dense_run_after_an_accelerated_one(load_tiny, schedule):
    model = load_tiny()
    expected = sample(model)
    sample(accelerated(model, schedule, budget=0.4)[0])
    assert torch.equal(expected, sample(model))
    assert torch.equal(expected, sample(full(model)))


def test_full_steps_of_an_accelerated_run_are_exact(load_tiny):
    """The state after the first steps, all full and recording, is the dense one bit for bit."""
    model = load_tiny()
    seen: dict[str, list] = {"dense": [], "fast": []}
    fast, handle = accelerated(model, budget=0.5)
    for name, which in (("dense", model), ("fast", fast)):
        sample(which, callback=lambda step, x0, x, total, name=name: seen[name].append(x0.clone()))
    kinds = [call.kind for call in last(handle).calls]
    assert kinds[0] == "full"
    assert kinds[1] == "token"
    assert torch.equal(seen["dense"][0], seen["fast"][0])
    assert not torch.equal(seen["dense"][1], seen["fast"][1])
