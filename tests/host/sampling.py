"""Shared by the host tests: sampling as ComfyUI's KSampler does it, and small Wan models with random weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import comfy.ldm.wan.model as wan
import comfy.ops
import comfy.sample
import comfy.sd
import torch
from torch import Tensor

from astraea.engine.planning.plan import make_plan
from astraea.engine.report import Report, ReportHandle
from astraea.host.sampling.patch_model import accelerate
from astraea.schedules import Schedule, flow_sigmas, periodic, uniform
from astraea.tiny.words import context_for

PROMPT = "a big red circle moving right over a blue ground"
LONG = " and ".join(["a small green square moving up"] * 5)  # more tokens than PROMPT: two model calls a step
TOKENS = uniform("tokens", 0.5, flow_sigmas(30))
WHOLE = periodic("whole", [0.0, 0.0, 1.0], flow_sigmas(30))


def conditioning(text: str, **extra: Any) -> list:
    return [[context_for(text)[None], extra]]


def sample(
    model: Any,
    *,
    steps: int = 8,
    cfg: float = 3.0,
    sampler: str = "euler",
    scheduler: str = "simple",
    shape: Sequence[int] = (1, 16, 4, 8, 8),
    positive: list | None = None,
    negative: list | None = None,
    latent: Tensor | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """Samples `[B, C, T, H, W]`, on the CPU."""
    latent = torch.zeros(shape) if latent is None else latent
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed),
        steps,
        cfg,
        sampler,
        scheduler,
        positive or conditioning(PROMPT),
        negative or conditioning(""),
        latent,
        seed=seed,
        disable_pbar=True,
        **options,
    )


def accelerated(model: Any, schedule: Schedule = TOKENS, **plan: Any) -> tuple[Any, ReportHandle]:
    """The accelerated MODEL and the handle its reports go to."""
    handle = ReportHandle()
    return accelerate(model, make_plan(schedule, **plan), handle), handle


def full(model: Any) -> Any:
    """Accelerated at budget 1."""
    return accelerated(model, budget=1.0)[0]


def last(handle: ReportHandle) -> Report:
    assert handle.last is not None
    return handle.last


def keeps(report: Report, budget: float, schedule: Schedule = TOKENS) -> bool:
    """Whether a run computed what the budget pays for: of whole steps as many as fit into it."""
    tokens: Counter[int] = Counter()
    for call in report.calls:
        tokens[call.step] += call.tokens
    one_step = max(tokens.values()) / sum(tokens.values())
    least, most = (0.98 * budget, 1.02 * budget) if schedule.has_partial_steps else (budget - one_step, 1.005 * budget)
    return least < report.computed_share <= most


def psnr(reference: Tensor, other: Tensor) -> float:
    """dB over the reference's range."""
    span = reference.max() - reference.min()
    return (20 * torch.log10(span) - 10 * torch.log10((reference - other).square().mean())).item()


def random_weights(module: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in module.state_dict().items():
        scale = 0.3 if "modulation" in name else 1.0 if name.endswith("norm.weight") else 0.05
        weights[name] = torch.randn(tensor.shape, generator=generator) * scale
        if "norm" in name and name.endswith("weight"):
            weights[name] = 1.0 + 0.1 * weights[name]
    return weights


def random_wan(model_class: str = "WanModel", **sizes: Any) -> Any:
    """A MODEL of a Wan class with random weights, found by the host from its state dict alone."""
    settings = {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 4, "in_dim": 16, "out_dim": 16} | sizes
    module = getattr(wan, model_class)(operations=comfy.ops.disable_weight_init, dtype=torch.float32, **settings)
    return comfy.sd.load_diffusion_model_state_dict(random_weights(module))
