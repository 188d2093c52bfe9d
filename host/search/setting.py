"""The sampling configuration of a search in ComfyUI, from its model, cases, sampler and noise levels."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...engine.sampler.profile import SamplerProfile
from ...errors import SearchError
from ...search.problem.runner import SamplingConfig
from ...version import VERSION
from ..sampling.architectures import architecture_of
from ..sampling.levels import level_of
from ..sampling.memory import compute_dtype
from ..sampling.sampler_probe import profile_of
from .fingerprint import digest_of, model_fingerprint

MIN_STEPS = 2
OWN_LEVELS = "it uses noise levels of its own"


@dataclass(frozen=True)
class Case:
    """A dense run to compare with: positive and negative CONDITIONING, a LATENT `{"samples": [B, C, T, H, W], …}`."""

    positive: list
    negative: list
    latent: dict
    seed: int


def setting_of(
    model: Any, family: str, cases: Sequence[Case], sampler: Any, sigmas: Tensor, cfg: float
) -> SamplingConfig:
    """Find the sampling configuration. Raises SearchError without cases, steps, conditionings or video."""
    if sigmas.ndim != 1 or len(sigmas) < MIN_STEPS + 1:
        raise SearchError(
            f"There are no steps to save: the noise levels hold {max(0, sigmas.numel() - 1)} steps and a search needs "
            f"at least {MIN_STEPS}. Is the denoise setting too low, or another node's SIGMAS connected?"
        )
    if not (sigmas[:-1] > sigmas[1:]).all() or float(sigmas[-1]) < 0.0:
        raise SearchError("The noise levels do not decrease from step to step: connect SIGMAS of a scheduler.")
    if not cases:
        raise SearchError("A search needs at least one prompt and seed.")
    for case in cases:
        _check(model, case)
    profile = _probe(model, cases[0], sampler, sigmas, cfg)
    solver = profile.solver
    # With several calls a step, or where it is not linear, nothing can be replayed.
    replayed = solver if solver is not None and solver.calls == profile.steps else None
    fingerprint = model_fingerprint(model)
    return SamplingConfig(
        sigmas=tuple(map(level_of(model.get_model_object("model_sampling")), sigmas.tolist())),
        calls_per_step=profile.calls_per_step,
        cases=len(cases),
        family=family,
        weights=None if replayed is None else replayed.weights_after,
        identity=_identity(model, fingerprint, cases, sampler, sigmas, cfg),
        facts=_facts(model, family, fingerprint, cases, sampler, sigmas, cfg),
        starts=None if replayed is None else replayed.starts,
        placement=None if solver is None else profile.placement_steps,
        has_token_steps=not architecture_of(model).limit,
    )


def _check(model: Any, case: Case) -> None:
    for role, conditioning in (("positive", case.positive), ("negative", case.negative)):
        if not conditioning:
            raise SearchError(f"The {role} conditioning is empty: connect a prompt.")
    if getattr(case.latent["samples"], "is_nested", False):
        raise SearchError("The latent holds several streams, such as video and audio: a search compares videos alone.")
    shape = tuple(case.latent["samples"].shape)
    if len(shape) != 5:
        raise SearchError(f"The latent holds no video: its shape is {list(shape)}, [B, C, T, H, W] is needed.")
    channels = model.get_model_object("latent_format").latent_channels
    if shape[1] != channels:
        raise SearchError(
            f"The latent has {shape[1]} channels and the model takes {channels}: it is for another model."
        )


def _probe(model: Any, case: Case, sampler: Any, sigmas: Tensor, cfg: float) -> SamplerProfile:
    """Return the sampler's profile. Raises SearchError if its steps cannot be followed."""
    steps = len(sigmas) - 1
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(case.positive, case.negative)
    guider.set_cfg(cfg)
    profile = profile_of(guider, sampler, sigmas)
    if profile.full_reason or profile.steps != steps:
        raise SearchError(f"This sampler cannot be searched for: {profile.full_reason or OWN_LEVELS}.")
    return profile


def _identity(model: Any, fingerprint: str, cases: Sequence[Case], sampler: Any, sigmas: Tensor, cfg: float) -> str:
    """Return a digest of everything that results depend on, patches of other nodes on the MODEL included."""
    return digest_of(
        fingerprint,
        _sampler_parts(sampler),
        sigmas,
        float(cfg),
        [(case.positive, case.negative, case.latent, case.seed) for case in cases],
        compute_dtype(model.model),
        [model.model_options, model.wrappers, model.object_patches],
    )[:32]


def _sampler_parts(sampler: Any) -> list:
    options = [getattr(sampler, name, None) for name in ("extra_options", "inpaint_options")]
    return [type(sampler).__name__, getattr(sampler, "sampler_function", sampler), *options]


def _facts(
    model: Any,
    family: str,
    fingerprint: str,
    cases: Sequence[Case],
    sampler: Any,
    sigmas: Tensor,
    cfg: float,
) -> dict[str, Any]:
    shift = getattr(model.get_model_object("model_sampling"), "shift", None)
    function = getattr(sampler, "sampler_function", type(sampler))
    return {
        "model": {
            "family": family,
            "class": type(model.get_model_object("diffusion_model")).__name__,
            "fingerprint": fingerprint,
        },
        "sampling": {
            "sampler": getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_"),
            "steps": len(sigmas) - 1,
            "cfg": float(cfg),
            "shift": float(shift) if isinstance(shift, (int, float)) else None,
            "latent": list(cases[0].latent["samples"].shape),
        },
        "cases": len(cases),
        "prompts": digest_of([(case.positive, case.negative) for case in cases])[:12],
        "seeds": [case.seed for case in cases],
        "versions": {"astraea": VERSION, "comfyui": _comfyui_version(), "torch": torch.__version__},
        "device": _device_name(model.load_device),
        "dtype": str(compute_dtype(model.model)).removeprefix("torch."),
    }


def _comfyui_version() -> str:
    try:
        return str(importlib.import_module("comfyui_version").__version__)
    except (ImportError, AttributeError):
        return "unknown"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return (platform.processor() or platform.machine()) if device.type == "cpu" else str(device)
