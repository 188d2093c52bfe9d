"""Weights as users have them: fp8, int8, GGUF, offloaded, loaded while they are used. Steps of all kinds work.

That is: budget 1 is bit-identical, half the calls and half the tokens beat half the steps, the store has the announced
size, and nothing runs in full because of how weights are held.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import kit
import pytest
import torch
import zoo
from comfy.model_detection import detect_unet_config
from comfy.model_management import LoadedModel
from kit import ADAPTED, RANDOM, STEPS, dense, error, joined, run
from safetensors.torch import save_file
from sampling import PROMPT, conditioning
from stored_weights import (
    FORMATS,
    LateOperations,
    PackedOperations,
    matrices,
    packed,
    quantised,
    readers,
    scaled_fp8,
    take_away,
    with_formats_in_metadata,
)
from zoo.base import Sampled

from astraea.host.sampling.architectures import architecture_of
from astraea.host.sampling.weights import LinearSlices
from astraea.host.search.fingerprint import model_fingerprint

WAN, H3, HUNYUAN, KANDINSKY, FLUX = "Wan 2.1 text to video", "MiniMax-H3", "HunyuanVideo", "Kandinsky 5", "Flux"
BOXES = [FLUX]
MODELS = [WAN, H3, HUNYUAN, KANDINSKY, FLUX]
DETECTED = {  # sizes by which the host's loader knows the model
    WAN: {"dim": 128, "num_heads": 1, "freq_dim": 256, "text_dim": 4096},
    H3: {},
    FLUX: {"hidden_size": 128, "num_heads": 1, "axes_dim": [16, 56, 56], "mlp_ratio": 4.0},
}
models = pytest.mark.parametrize("name", MODELS)
files = pytest.mark.parametrize("name", DETECTED)


def steps_of(name: str) -> int:
    """The length of the runs that are compared: of few steps, none can be skipped without much loss."""
    return 20 if name in BOXES else STEPS


def check(name: str, sampled: Sampled) -> torch.Tensor:
    """Checks steps of all kinds; returns the dense result."""
    steps = steps_of(name)
    expected = joined(zoo.sample(sampled, steps=steps))
    shorter = error(expected, joined(zoo.sample(sampled, steps=steps // 2)))
    assert expected.isfinite().all()
    assert torch.equal(run(sampled, budget=1.0, steps=steps)[0], expected)
    result, report = run(sampled, schedule=None, budget=0.5, steps=steps)
    assert error(expected, result) < RANDOM * shorter
    assert {call.kind for call in report.calls} == {"full", "reuse"}
    if name in BOXES:
        return expected
    for mode, largest in ((None, shorter), ("paper", 0.7)):
        result, report = run(sampled, mode=mode)
        assert error(expected, result) < largest
        assert {call.kind for call in report.calls} == {"full", "token"}
        assert not [call.reason for call in report.calls if call.reason]
        assert report.announced_bytes == pytest.approx(report.cache_bytes, rel=0.05)
    return expected


# --- files ------------------------------------------------------------------------------------------------------


def detected(name: str) -> Sampled:
    """A model in sizes that the host's loader knows, with random weights."""
    with zoo.sizes(**DETECTED[name]):
        sampled = kit.build(name)
    if name == WAN:
        sampled.positive, sampled.negative = conditioning(PROMPT), conditioning("")
    found = detect_unet_config(sampled.model.model.diffusion_model.state_dict(), "")
    if found.get("hidden_size", 0) > 128:
        pytest.skip(f"this ComfyUI's loader knows {name} in one size alone")
    return sampled


def load_file(name: str, path: Any, store: Any, metadata: bool = False) -> tuple[Sampled, torch.Tensor]:
    """The model as the host loads it from a file, and the dense result with plain weights."""
    sampled = detected(name)
    plain = joined(zoo.sample(sampled, steps=steps_of(name)))
    entries, file_metadata = store(sampled.model.model.diffusion_model.state_dict()), {}
    if metadata:
        entries, file_metadata = with_formats_in_metadata(entries)
    save_file({key: tensor.contiguous() for key, tensor in entries.items()}, path, file_metadata)
    sampled.model = comfy.sd.load_diffusion_model(str(path))
    return sampled, plain


def are_small(model: Any) -> bool:
    """True if the matrices of the blocks take a byte a value, at most."""
    blocks = [name for name, _ in model.named_modules() if name.endswith("blocks.0")]
    found = [weight for block in blocks for weight in model.get_submodule(block).parameters() if weight.ndim == 2]
    return bool(found) and all(getattr(weight, "_qdata", weight).itemsize == 1 for weight in found)


@files
def test_scaled_fp8(name, tmp_path):
    sampled, plain = load_file(name, tmp_path / "model.safetensors", scaled_fp8)
    assert are_small(sampled.model.model.diffusion_model)
    assert 0.0 < error(plain, check(name, sampled)) < 0.5


@pytest.mark.skipif(not hasattr(comfy.ops, "scaled_fp8_ops"), reason="this ComfyUI makes quantised layers of them")
@models
def test_scaled_fp8_layers_of_older_hosts(name):
    with zoo.stored(scaled_fp8, scaled_fp8=torch.float8_e4m3fn):
        sampled = kit.build(name)
    assert are_small(sampled.model.model.diffusion_model)
    assert 0.0 < error(dense(name, steps_of(name)), check(name, sampled)) < 0.5


@pytest.mark.parametrize(
    ("name", "form"),
    [*((WAN, form) for form in FORMATS), *((name, form) for name in (H3, FLUX) for form in ("fp8", "int8, rotated"))],
)
def test_quantised_layers(name, form, tmp_path):
    sampled, plain = load_file(name, tmp_path / "model.safetensors", quantised(form), metadata=form == "fp8")
    assert are_small(sampled.model.model.diffusion_model)
    assert 0.0 < error(plain, check(name, sampled)) < 0.5


@pytest.mark.parametrize("name", [WAN, H3])
def test_products_in_fp8(name, tmp_path, monkeypatch):
    """As on a GPU that multiplies fp8: what enters a layer is quantised, too."""
    monkeypatch.setattr(comfy.model_management, "SUPPORT_FP8_OPS", True)
    sampled, plain = load_file(name, tmp_path / "model.safetensors", quantised("fp8"))
    assert not any(getattr(layer, "_full_precision_mm", False) for layer in sampled.model.model.modules())
    assert 0.0 < error(plain, check(name, sampled)) < 0.5


@pytest.mark.parametrize("name", [HUNYUAN, KANDINSKY])
def test_quantised_layers_of_models_whose_small_sizes_the_loader_does_not_know(name):
    with zoo.stored(quantised("int8"), quant_config={"mixed_ops": True}), zoo.weights_in(torch.float32, torch.float32):
        sampled = kit.build(name)
    assert are_small(sampled.model.model.diffusion_model)
    assert 0.0 < error(dense(name, steps_of(name)), check(name, sampled)) < 0.5


# --- Linears of other packs -------------------------------------------------------------------------------------


@models
def test_packed_weights(name):
    with zoo.stored(packed, custom_operations=PackedOperations):
        sampled = kit.build(name)
    assert 0.0 < error(dense(name, steps_of(name)), check(name, sampled)) < 0.1
    check_readers(name, sampled)


def check_readers(name: str, sampled: Sampled) -> None:
    """Checks that no file has looked at a layer's weights, but for one, at the shape of those of H3's output layer."""
    assert readers(sampled.model.model.modules()) == ({"astraea.models.refused"} if name == H3 else set())


# --- weights that are elsewhere until they are used ---------------------------------------------------------------


@models
def test_late_weights(name):
    with zoo.stored(custom_operations=LateOperations):
        sampled = kit.build(name)
    take_away(sampled.model.model, lambda layer: torch.empty(0))
    assert torch.equal(check(name, sampled), dense(name, steps_of(name)))
    check_readers(name, sampled)


EMPTY = {
    "none": lambda layer: None,
    "empty": lambda layer: torch.empty(0),
    "without values": lambda layer: torch.empty(layer.out_features, layer.in_features, device="meta"),
}


@pytest.mark.parametrize("instead", EMPTY)
@pytest.mark.parametrize("name", ADAPTED)
def test_a_model_is_described_without_its_weights(name, instead, monkeypatch):
    monkeypatch.setattr(LinearSlices, "possible", lambda self, linear: False)  # of these foreign layers no part alone
    sampled = kit.build(name)
    with zoo.stored(custom_operations=LateOperations):
        late = kit.build(name)
    take_away(late.model.model, EMPTY[instead])
    found, expected = architecture_of(late.model), architecture_of(sampled.model)
    shape = tuple(zoo.base.tensors(sampled.latent["samples"])[0].shape)
    text = {"c_crossattn": torch.empty(1, 12, 1, device="meta")}
    layout = found.layout(shape, text)
    assert layout == expected.layout(shape, text)
    assert found.cost(layout, 12) == expected.cost(layout, 12)
    assert (found.dim, len(found.blocks), found.limit) == (expected.dim, len(expected.blocks), "")
    assert found.full_reason({}) == ""
    check_readers(name, late)


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        (H3, "mlp.fc2", "in_features"),
        (KANDINSKY, "feed_forward.in_layer", "out_features"),
        ("CogVideoX 2B", "ff_proj", "out_features"),
        ("LTXV", "ff.net.0.proj", "out_features"),
        ("Cosmos-Predict2 image to video", "mlp.layer1", "out_features"),
        ("Mochi", "mlp_x.w2", "in_features"),
        ("Wan 2.1 HuMo", "audio_cross_attn_wrapper.audio_cross_attn.k", "in_features"),
    ],
)
def test_a_layer_of_unknown_size_leaves_whole_steps(name, layer, size):
    sampled = kit.build(name)
    for block in architecture_of(sampled.model).blocks:
        delattr(block.get_submodule(layer), size)
    found = architecture_of(sampled.model)
    assert found.runner is None
    assert f"no {layer}.{size}" in found.limit


# --- weights on two devices, and LoRA -----------------------------------------------------------------------------


@pytest.fixture
def partly_loaded(monkeypatch):
    """From now on the host loads a part of a model's weights, and moves the others when they are used."""
    load = LoadedModel.model_use_more_vram

    def part(loaded: LoadedModel, extra_memory: float, *args: Any, **kwargs: Any) -> Any:
        more = 0.75 * loaded.model.model_size() - loaded.model.model.model_loaded_weight_memory
        return load(loaded, max(more, 0.0), *args, **kwargs)

    monkeypatch.setattr(LoadedModel, "model_use_more_vram", part)


def with_lora(model: Any) -> Any:
    """The MODEL behind the host's node for a LoRA on every matrix of its blocks."""
    weights, entries = model.model.diffusion_model.state_dict(), {}
    for seed, layer in enumerate(matrices(weights, r"blocks\.\d")):
        out, width = weights[f"{layer}.weight"].shape
        entries[f"diffusion_model.{layer}.lora_up.weight"] = zoo.base.random(out, 2, seed=seed) / 4
        entries[f"diffusion_model.{layer}.lora_down.weight"] = zoo.base.random(2, width, seed=seed) / width**0.5
    return comfy.sd.load_lora_for_models(model, None, entries, 1.0, 0.0)[0]


def check_partly_loaded(name: str, sampled: Sampled) -> float:
    """Checks a model with a LoRA, and returns the share of its layers to which the LoRA is added as they are used.

    In the others, it was added to the weights when they were loaded.
    """
    without = joined(zoo.sample(sampled, steps=steps_of(name)))
    sampled.model = with_lora(sampled.model)
    fingerprint = model_fingerprint(sampled.model)
    assert error(without, check(name, sampled)) > 0.05
    assert model_fingerprint(sampled.model) == fingerprint
    assert sampled.model.model.model_lowvram
    layers = sampled.model.model.diffusion_model.modules()
    return sum(bool(getattr(layer, "weight_function", None)) for layer in layers) / len(sampled.model.patches)


@models
def test_lora_on_weights_that_are_partly_offloaded(name, partly_loaded):
    assert 0.1 < check_partly_loaded(name, kit.build(name)) < 0.9


@models
def test_lora_on_fp8_weights_that_are_partly_offloaded(name, partly_loaded):
    with zoo.weights_in(torch.float8_e4m3fn, compute=torch.float32):
        assert check_partly_loaded(name, kit.build(name)) > 0.1


@pytest.mark.parametrize("name", [WAN, H3])
def test_lora_on_quantised_layers_that_are_partly_offloaded(name, tmp_path, partly_loaded):
    sampled, _ = load_file(name, tmp_path / "model.safetensors", quantised("int8, rotated"))
    assert check_partly_loaded(name, sampled) > 0.1
