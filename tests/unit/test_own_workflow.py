"""What `benchmarks/own_workflow.py` makes of a user's workflow; that it runs is seen in the graph tier."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    import own_workflow

    yield own_workflow
    for name in ("own_workflow", "lib", "lib.markdown"):
        sys.modules.pop(name)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def two_experts() -> dict[str, Any]:
    """Two samplers with a model each, the second one goes on where the first one stops; then a decoder."""
    words = {"positive": ["control", 0], "negative": ["control", 1]}
    return {
        "high": node("UNETLoader", unet_name="high"),
        "low": node("UNETLoader", unet_name="low"),
        "yes": node("CLIPTextEncode", text="a fox"),
        "no": node("CLIPTextEncode", text="blurred"),
        "control": node("WanImageToVideo", positive=["yes", 0], negative=["no", 0]),
        "first": node(
            "KSamplerAdvanced", model=["high", 0], noise_seed=7, latent_image=["control", 2], start_at_step=0, **words
        ),
        "second": node("KSamplerAdvanced", model=["low", 0], noise_seed=7, latent_image=["first", 0], **words),
        "decode": node("VAEDecode", samples=["second", 0]),
        "save": node("SaveVideo", images=["decode", 0]),
    }


def with_guider() -> dict[str, Any]:
    return {
        "loader": node("UNETLoader", unet_name="wan"),
        "shift": node("ModelSamplingSD3", model=["loader", 0], shift=8.0),
        "text": node("CLIPTextEncode", text="a fox"),
        "guider": node("BasicGuider", model=["shift", 0], conditioning=["text", 0]),
        "sigmas": node("BasicScheduler", model=["shift", 0], steps=20),
        "noise": node("RandomNoise", noise_seed=3),
        "empty": node("EmptyHunyuanLatentVideo", width=64),
        "sampler": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sigmas=["sigmas", 0],
            latent_image=["empty", 0],
        ),
    }


def test_both_experts_are_accelerated_and_nothing_is_saved(own: ModuleType) -> None:
    made = own.comparison(two_experts(), 0.4)
    assert not {"save", "decode"} & set(made)
    for tag, budget in (("dense", 1.0), ("own", 0.4)):
        for stage, loader in (("first", "high"), ("second", "low")):
            wrapped = made[f"{tag}-{stage}-model"]
            assert (wrapped["class_type"], wrapped["inputs"]["budget"]) == ("AstraeaAccelerate", budget)
            assert wrapped["inputs"]["model"] == [loader, 0]
            assert made[f"{tag}-{stage}"]["inputs"]["model"] == [f"{tag}-{stage}-model", 0]
            assert made[f"{tag}-{stage}-report"]["inputs"]["samples"] == [f"{tag}-second", 0]
        assert made[f"{tag}-second"]["inputs"]["latent_image"] == [f"{tag}-first", 0]
    assert made["compare"]["inputs"] == {"latents_a": ["dense-second", 0], "latents_b": ["own-second", 0]}


def test_what_does_not_depend_on_the_model_is_shared(own: ModuleType) -> None:
    made = own.comparison(with_guider(), 0.5, easycache=0.1)
    assert made["own-sampler"]["inputs"]["noise"] == made["dense-sampler"]["inputs"]["noise"] == ["noise", 0]
    assert made["own-sampler"]["inputs"]["sigmas"] == ["sigmas", 0]
    assert made["own-guider-cache"]["inputs"]["reuse_threshold"] == 0.1
    assert made["own-guider-model"]["inputs"]["model"] == ["own-guider-cache", 0]
    assert made["dense-guider-model"]["inputs"]["model"] == ["shift", 0]


def test_every_link_leads_to_a_node(own: ModuleType) -> None:
    for workflow in (two_experts(), with_guider()):
        made = own.comparison(workflow, 0.5)
        assert {origin for each in made.values() for _, origin in own.links(each)} <= set(made)


def test_only_the_positive_text_is_replaced(own: ModuleType) -> None:
    made = own.with_text(two_experts(), "a hare")
    assert (made["yes"]["inputs"]["text"], made["no"]["inputs"]["text"]) == ("a hare", "blurred")
    assert own.with_text(with_guider(), "a hare")["text"]["inputs"]["text"] == "a hare"


def test_seeds_move_together(own: ModuleType) -> None:
    made = own.with_seed(two_experts(), 2)
    assert [made[stage]["inputs"]["noise_seed"] for stage in ("first", "second")] == [9, 9]


def test_what_cannot_be_measured_is_refused(own: ModuleType) -> None:
    accelerated = with_guider()
    accelerated["fast"] = node("AstraeaAccelerate", model=["shift", 0], budget=0.4)
    accelerated["guider"]["inputs"]["model"] = ["fast", 0]
    twice = two_experts()
    twice["second"]["inputs"]["latent_image"] = ["control", 2]
    textless = with_guider()
    textless["text"]["inputs"]["text"] = ["loader", 0]
    with pytest.raises(own.Unsuitable, match="Take AstraeaAccelerate out"):
        own.comparison(accelerated, 0.5)
    with pytest.raises(own.Unsuitable, match="one sampler"):
        own.comparison(twice, 0.5)
    with pytest.raises(own.Unsuitable, match="one text"):
        own.with_text(textless, "a hare")
