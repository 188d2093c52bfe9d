"""The guiders and patches that the host brings, each beside a plan: through their real nodes, on the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import comfy.model_management
import comfy.sd
import pytest
import torch
from host_nodes import call, outputs
from sampling import LONG, PROMPT, TOKENS, WHOLE, accelerated, conditioning, full, sample
from torch import Tensor

BUDGET, STEPS, CFG = 0.5, 6, 3.0
SHAPE = (1, 16, 2, 8, 8)
OTHER = "a small green square moving up"
CUSTOM, SAMPLING = "comfy_extras.nodes_custom_sampler", "nodes"

Patch = Callable[[Any], Any]
Sampled = Callable[[Any], Tensor]


def unchanged(model: Any) -> Any:
    return model


def by_ksampler(model: Any) -> Tensor:
    return sample(model, steps=STEPS, cfg=CFG, shape=SHAPE)


@dataclass(frozen=True)
class Case:
    """patch: makes a MODEL of a MODEL, as nodes do that stand before the sampler; run: samples with a MODEL.

    skips: it leaves out model calls by itself, so that less than the budget may be computed.
    """

    patch: Patch = unchanged
    run: Sampled = by_ksampler
    skips: bool = False


def patched(module: str, node_id: str, *, skips: bool = False, **inputs: Any) -> Case:
    return Case(lambda model: call(f"comfy_extras.{module}", node_id, model=model, **inputs), skips=skips)


# --- ways to sample ---------------------------------------------------------------------------------------------


def sigmas_of(model: Any, denoise: float = 1.0) -> Tensor:
    return call(CUSTOM, "BasicScheduler", model=model, scheduler="simple", steps=STEPS, denoise=denoise)


def by_guider(guider: Any, sigmas: Tensor, latent: dict | None = None, noise_node: str = "RandomNoise") -> dict:
    """The LATENT of Sampler Custom (Advanced)."""
    noise = {"noise_seed": 0} if noise_node == "RandomNoise" else {}
    return call(
        CUSTOM,
        "SamplerCustomAdvanced",
        noise=call(CUSTOM, noise_node, **noise),
        guider=guider,
        sampler=call(CUSTOM, "KSamplerSelect", sampler_name="euler"),
        sigmas=sigmas,
        latent_image=latent or {"samples": torch.zeros(SHAPE)},
    )


def guided(node_id: str, module: str = "nodes_custom_sampler", second_model: str = "", **inputs: Any) -> Case:
    def run(model: Any) -> Tensor:
        second = {second_model: model} if second_model else {}
        guider = call(f"comfy_extras.{module}", node_id, model=model, **inputs, **second)
        return by_guider(guider, sigmas_of(model))["samples"]

    return Case(run=run)


def cfg_guider(model: Any) -> Any:
    return call(CUSTOM, "CFGGuider", model=model, positive=conditioning(PROMPT), negative=conditioning(""), cfg=CFG)


def in_two_parts(split: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Case:
    def run(model: Any) -> Tensor:
        high, low = split(sigmas_of(model))
        half = by_guider(cfg_guider(model), high)
        return by_guider(cfg_guider(model), low, half, "DisableNoise")["samples"]

    return Case(run=run)


def in_ranges(*ends: int) -> Case:
    """KSampler (Advanced), one range of steps after the other."""

    def run(model: Any) -> Tensor:
        latent, last = {"samples": torch.zeros(SHAPE)}, len(ends) - 2
        for number, (start, end) in enumerate(pairwise(ends)):
            latent = call(
                SAMPLING,
                "KSamplerAdvanced",
                model=model,
                add_noise="disable" if number else "enable",
                noise_seed=0,
                steps=STEPS,
                cfg=CFG,
                sampler_name="euler",
                scheduler="simple",
                positive=conditioning(PROMPT),
                negative=conditioning(""),
                latent_image=latent,
                start_at_step=start,
                end_at_step=end,
                return_with_leftover_noise="disable" if number == last else "enable",
            )
        return latent["samples"]

    return Case(run=run)


def by_ksampler_node(latent: dict, denoise: float = 1.0) -> Case:
    def run(model: Any) -> Tensor:
        return call(
            SAMPLING,
            "KSampler",
            model=model,
            seed=0,
            steps=STEPS,
            cfg=CFG,
            sampler_name="euler",
            scheduler="simple",
            positive=conditioning(PROMPT),
            negative=conditioning(""),
            latent_image=latent,
            denoise=denoise,
        )["samples"]

    return Case(run=run)


def video(seed: int = 5, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def half_mask() -> Tensor:
    """`[1, H, W]`: the left half."""
    mask = torch.zeros(1, *SHAPE[-2:])
    mask[..., : SHAPE[-1] // 2] = 1.0
    return mask


def masked() -> Case:
    latent = call(SAMPLING, "SetLatentNoiseMask", samples={"samples": video()}, mask=half_mask())
    return by_ksampler_node(latent)


def prompted(make: Callable[[], list]) -> Case:
    """With a positive conditioning that is made of others."""
    return Case(run=lambda model: sample(model, steps=STEPS, cfg=CFG, shape=SHAPE, positive=make()))


def combined(one: list, other: list) -> list:
    return call(SAMPLING, "ConditioningCombine", conditioning_1=one, conditioning_2=other)


def in_area() -> list:
    part = call(
        SAMPLING, "ConditioningSetArea", conditioning=conditioning(OTHER), width=32, height=16, x=0, y=0, strength=1.0
    )
    return combined(conditioning(PROMPT), part)


def in_part_of_the_video() -> list:
    sizes = {"width": 0.5, "height": 1.0, "temporal": 0.5, "x": 0.5, "y": 0.0, "z": 0.5, "strength": 1.0}
    module = "comfy_extras.nodes_video_model"
    part = call(module, "ConditioningSetAreaPercentageVideo", conditioning=conditioning(OTHER), **sizes)
    return combined(conditioning(PROMPT), part)


def under_a_mask() -> list:
    settings = {"mask": half_mask(), "strength": 1.0, "set_cond_area": "default"}
    return combined(
        conditioning(PROMPT), call(SAMPLING, "ConditioningSetMask", conditioning=conditioning(LONG), **settings)
    )


def one_after_the_other() -> list:
    def ranged(text: str, start: float, end: float) -> list:
        return call(SAMPLING, "ConditioningSetTimestepRange", conditioning=conditioning(text), start=start, end=end)

    return combined(ranged(PROMPT, 0.0, 0.5), ranged(OTHER, 0.5, 1.0))


def windows(node_id: str, **sizes: Any) -> Case:
    static = {
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
    }
    module = "nodes_context_windows"
    patch = patched(module, node_id, **static, **sizes).patch
    return Case(patch, lambda model: sample(model, steps=STEPS, cfg=CFG, shape=(1, 16, 6, 8, 8)))


class EverySecondStep:
    """As step caches of other packs do it: a wrapper around model calls that answers every second step from memory."""

    def __init__(self) -> None:
        self.known: dict[tuple, Tensor] = {}

    def __call__(self, apply_model: Callable, arguments: dict) -> Tensor:
        options = arguments["c"]["transformer_options"]
        sigma = float(options["sigmas"].flatten()[0])
        step = min(range(STEPS), key=lambda index: abs(float(options["sample_sigmas"][index]) - sigma))
        key = tuple(arguments["cond_or_uncond"])
        if step % 2 == 0 or key not in self.known:
            self.known[key] = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
        return self.known[key]


def every_second_step(model: Any) -> Any:
    clone = model.clone()
    clone.set_model_unet_function_wrapper(EverySecondStep())
    return clone


EVERY_CALL = {"start_percent": 0.0, "end_percent": 1.0}
CASES: dict[str, Callable[[], Case]] = {
    "BasicGuider": lambda: guided("BasicGuider", conditioning=conditioning(PROMPT)),
    "CFGGuider": lambda: guided("CFGGuider", positive=conditioning(PROMPT), negative=conditioning(LONG), cfg=CFG),
    "DualCFGGuider": lambda: dual_cfg("regular"),
    "DualCFGGuider nested": lambda: dual_cfg("nested"),
    "PerpNegGuider": lambda: guided(
        "PerpNegGuider",
        "nodes_perpneg",
        positive=conditioning(PROMPT),
        negative=conditioning(OTHER),
        empty_conditioning=conditioning(""),
        cfg=CFG,
        neg_scale=1.0,
    ),
    "DualModelGuider": lambda: guided(
        "DualModelGuider",
        second_model="model_negative",
        positive=conditioning(PROMPT),
        negative=conditioning(""),
        cfg=CFG,
    ),
    "PerpNeg": lambda: patched("nodes_perpneg", "PerpNeg", empty_conditioning=conditioning(""), neg_scale=1.0),
    "SkipLayerGuidanceDiT": lambda: patched(
        "nodes_slg",
        "SkipLayerGuidanceDiT",
        double_layers="2, 3",
        single_layers="",
        scale=2.0,
        rescaling_scale=0.0,
        start_percent=0.01,
        end_percent=0.8,
    ),
    "SkipLayerGuidanceDiTSimple": lambda: patched(
        "nodes_slg", "SkipLayerGuidanceDiTSimple", double_layers="2", single_layers="", **EVERY_CALL
    ),
    "CFGZeroStar": lambda: patched("nodes_cfg", "CFGZeroStar"),
    "CFGNorm": lambda: patched("nodes_cfg", "CFGNorm", strength=1.0),
    "APG": lambda: patched("nodes_apg", "APG", eta=1.0, norm_threshold=5.0, momentum=-0.5),
    "TCFG": lambda: patched("nodes_tcfg", "TCFG"),
    "NAGuidance": lambda: patched("nodes_nag", "NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5),
    "PerturbedAttentionGuidance": lambda: patched("nodes_pag", "PerturbedAttentionGuidance", scale=3.0),
    "SelfAttentionGuidance": lambda: patched("nodes_sag", "SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "RescaleCFG": lambda: patched("nodes_model_advanced", "RescaleCFG", multiplier=0.7),
    "FreSca": lambda: patched("nodes_fresca", "FreSca", scale_low=1.0, scale_high=1.25, freq_cutoff=2),
    "CFGOverride": lambda: patched("nodes_custom_sampler", "CFGOverride", cfg=1.0, start_percent=0.5, end_percent=1.0),
    "WanContextWindowsManual": lambda: windows("WanContextWindowsManual", context_length=13, context_overlap=5),
    "ContextWindowsManual": lambda: windows("ContextWindowsManual", context_length=4, context_overlap=2, dim=2),
    "EasyCache": lambda: step_cache("EasyCache"),
    "LazyCache": lambda: step_cache("LazyCache"),
    "every second step": lambda: Case(every_second_step, skips=True),
    "denoise mask": masked,
    "DifferentialDiffusion": lambda: Case(
        patched("nodes_differential_diffusion", "DifferentialDiffusion").patch, masked().run
    ),
    "denoise below 1": lambda: by_ksampler_node({"samples": video()}, denoise=0.6),
    "batch of two": lambda: by_ksampler_node({"samples": torch.zeros(2, *SHAPE[1:])}),
    "ranges of KSamplerAdvanced": lambda: in_ranges(0, 4, 10000),
    "SplitSigmas": lambda: in_two_parts(lambda sigmas: outputs(CUSTOM, "SplitSigmas", sigmas=sigmas, step=3)),
    "SplitSigmasDenoise": lambda: in_two_parts(
        lambda sigmas: outputs(CUSTOM, "SplitSigmasDenoise", sigmas=sigmas, denoise=0.5)
    ),
    "ConditioningSetArea": lambda: prompted(in_area),
    "ConditioningSetAreaPercentageVideo": lambda: prompted(in_part_of_the_video),
    "ConditioningSetMask": lambda: prompted(under_a_mask),
    "ConditioningSetTimestepRange": lambda: prompted(one_after_the_other),
}


def dual_cfg(style: str) -> Case:
    prompts = {"cond1": conditioning(PROMPT), "cond2": conditioning(OTHER), "negative": conditioning("")}
    return guided("DualCFGGuider", **prompts, cfg_conds=CFG, cfg_cond2_negative=2.0, style=style)


def step_cache(node_id: str) -> Case:
    settings = {"reuse_threshold": 0.3, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    return patched("nodes_easycache", node_id, skips=True, **settings)


@pytest.fixture(scope="module")
def model(tiny_model_path) -> Iterator[Any]:
    """One for all cases: that it is as it was after each is what they show."""
    with torch.inference_mode():
        yield comfy.sd.load_diffusion_model(str(tiny_model_path))
        comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def untouched(model) -> Tensor:
    """What the model gives before anything has been done with it."""
    with torch.inference_mode():
        return by_ksampler(model)


@pytest.mark.parametrize("name", CASES)
def test_it_runs_beside_a_plan_and_leaves_the_model_alone(model, untouched, name):
    case = CASES[name]()
    patched_model = case.patch(model)
    try:
        plain = case.run(patched_model)
    except (TypeError, AttributeError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be used with this model: {error}")
    for schedule in (WHOLE, TOKENS):
        fast, handle = accelerated(patched_model, schedule, budget=BUDGET)
        output = case.run(fast)
        assert output.shape == plain.shape
        assert torch.isfinite(output).all()
        assert handle.reports
        for report in handle.reports:
            assert report.finished
            least = 0.0 if case.skips else BUDGET - 1 / report.steps
            assert least <= report.computed_share <= 1.0, (schedule.name, report.notes)
    assert torch.equal(case.run(full(patched_model)), plain)
    assert torch.equal(by_ksampler(model), untouched)


def test_every_patch_may_stand_behind_the_plan_as_well(model):
    """Nodes that patch a MODEL stand before Accelerate or after it."""
    for name in ("CFGZeroStar", "RescaleCFG", "SkipLayerGuidanceDiT", "every second step"):
        case = CASES[name]()
        behind, before = case.patch(accelerated(model, WHOLE, budget=BUDGET)[0]), case.patch(model)
        assert torch.equal(case.run(behind), case.run(accelerated(before, WHOLE, budget=BUDGET)[0]))
