"""Runs the tiny model through the engine without ComfyUI: an Euler sampler, and the model's architecture.

Only the demo and tests use it. In ComfyUI the package `host` does the same for real models.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..engine.blocks.interface import RowGroup, TokenLayout
from ..engine.calls import ReuseCall
from ..engine.calls.block_hooks import patched_forwards
from ..engine.calls.context import CallRequest
from ..engine.planning.cost import BlockCost
from ..engine.planning.plan import Plan
from ..engine.report import Report
from ..engine.run import Run
from ..kernels import attend
from ..models.architecture import Architecture
from ..models.wan import WanRunner
from ..models.wan_layout import grid
from .model import PATCH, ModelConfig, TinyWan
from .words import TOKENS

GROUPS = (RowGroup("positive", slice(0, 1)), RowGroup("negative", slice(1, 2)))


def load_tiny(checkpoint: Path) -> TinyWan:
    """Load a trained model in fp32, ready to run."""
    model = TinyWan(ModelConfig())
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(checkpoint).items()})
    return model.eval().requires_grad_(False)


def architecture_of(model: TinyWan) -> Architecture:
    """Describe the model for the engine."""
    config = model.config

    def layout(shape: tuple[int, ...], conditions: dict) -> TokenLayout:
        frames, height, width = grid(PATCH, shape)
        return TokenLayout(video=frames * height * width)

    return Architecture(
        family="wan",
        blocks=model.blocks,
        runner=WanRunner(lambda parameter, like: parameter.to(like)),
        layout=layout,
        cost=lambda layout, words: BlockCost.of(layout.total, config.dim, config.feed_forward, words or TOKENS),
        dim=config.dim,
    )


@torch.inference_mode()
def sample(
    model: TinyWan,
    noise: Tensor,
    positive: Tensor,
    negative: Tensor,
    sigmas: Sequence[float],
    *,
    cfg: float,
    plan: Plan | None = None,
) -> tuple[Tensor, Report | None, float]:
    """Sample by Euler steps along the flow, from noise `[1, 16, T, H, W]`.

    positive, negative: contexts `[L, 4096]` of equal length; sigmas: falling, with a last 0. Without a plan the model
    computes every step in full. Returns the latents, the report of an accelerated run (else None) and the seconds.
    """
    context = torch.stack([positive, negative]).to(noise)
    run = _begin(model, noise, sigmas, cfg, plan) if plan is not None else None
    began = time.perf_counter()
    x = noise
    try:
        for sigma, following in pairwise(sigmas):
            with_prompt, without = _evaluate(model, x, sigma, context, run).chunk(2)
            x = x + (following - sigma) * (without + cfg * (with_prompt - without))
    finally:
        if run is not None:
            run.finish()
    seconds = time.perf_counter() - began
    return x, run.writer.close(seconds, finished=True) if run is not None else None, seconds


def _begin(model: TinyWan, noise: Tensor, sigmas: Sequence[float], cfg: float, plan: Plan) -> Run:
    architecture = architecture_of(model)
    layout = architecture.layout(tuple(noise.shape), {})
    cost = architecture.cost(layout, TOKENS)
    run = Run.of(plan, sigmas, cost=cost, family=architecture.family, guidance=cfg)
    run.writer.announce(
        run.store_bytes(len(GROUPS), layout.total, architecture.dim, len(model.blocks), noise.dtype, noise[0].nbytes)
    )
    return run


def _evaluate(model: TinyWan, x: Tensor, sigma: float, context: Tensor, run: Run | None) -> Tensor:
    """Return the flow `noise − clip` that the model predicts for both prompts, `[2, 16, T, H, W]`."""
    both = x.expand(2, *x.shape[1:])
    timestep = torch.full((2,), sigma * 1000, device=x.device)
    if run is None:
        return model(both, timestep, context)
    architecture = architecture_of(model)
    request = CallRequest(
        sigma=sigma,
        groups=GROUPS,
        layout=architecture.layout(tuple(x.shape), {}),
        runner=architecture.runner,
        attend=attend,
        blocks=len(model.blocks),
        device=x.device,
    )
    call = run.begin_call(request)
    if isinstance(call, ReuseCall):
        return (both - run.end_call(call, call.estimate())) / sigma
    with patched_forwards(model.blocks, call):
        flow = model(both, timestep, context)
    denoised = both - sigma * flow
    result = run.end_call(call, denoised)
    return flow if result is denoised else (both - result) / sigma
