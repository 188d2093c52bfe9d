"""The wrappers through which a run lives: begun and ended with the sampler, consulted at every model call."""

from __future__ import annotations

import logging
import time
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

from ..engine.call import ReuseCall
from ..engine.run import CallSite, Run
from ..errors import UnsupportedModel
from ..models import Architecture, describe
from .attachment import KEY, RUN_KEY, ActiveRun
from .attention import RunAttention
from .branch_keys import row_groups
from .comfy_bridge import cast_like
from .guiders import context_length, guidance_scale
from .memory import announced_bytes, enlarged_shape
from .rehearsal import rehearse
from .swap import swapped_forwards


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE: owns one run. args: noise, latent image, sampler, sigmas, …"""
    guider = executor.class_obj
    attachment = guider.model_options.get("transformer_options", {}).get(KEY)
    if attachment is None:
        return executor(*args, **kwargs)
    began = time.perf_counter()
    original_options = guider.model_options
    active = _begin(guider, attachment.plan, noise=args[0], sampler=args[2], sigmas=args[3], seed=kwargs.get("seed"))
    active.observe = attachment.observe
    finished = False
    try:
        guider.model_options = comfy.model_patcher.create_model_options_clone(original_options)
        guider.model_options["transformer_options"][RUN_KEY] = active
        output = executor(*args, **kwargs)
        finished = True
        return output
    finally:
        guider.model_options = original_options
        report = active.run.finish()
        report.seconds, report.finished = time.perf_counter() - began, finished
        attachment.handle.add(report)
        if attachment.observe is None:  # who observes makes many runs, and tells of them itself
            logging.info(f"Astraea: {'' if finished else 'stopped early; '}{report.summary()}")


def _begin(guider: Any, plan: Any, *, noise: Any, sampler: Any, sigmas: Any, seed: int | None) -> ActiveRun:
    levels = [float(level) for level in sigmas]
    try:
        architecture = describe(guider.model_patcher.get_model_object("diffusion_model"), cast_like)
    except UnsupportedModel as reason:
        run = Run(plan, levels)
        run.report.note(str(reason))
        return ActiveRun(run, RunAttention(plan.attention, run.report))
    layout = architecture.layout(tuple(noise.shape), {})
    rehearsal = rehearse(guider, sampler, sigmas)
    run = Run(
        plan,
        levels,
        evaluations=rehearsal.evaluations() if rehearsal is not None else None,
        solver=rehearsal.solver() if rehearsal is not None else None,
        cost=architecture.cost(layout.video, context_length(guider)),
        family=architecture.family,
        seed=seed or 0,
        guidance=guidance_scale(guider),
    )
    if plan.schedule.family not in (architecture.family, "any"):
        run.report.note(
            f"schedule '{plan.schedule.name}' was made for {plan.schedule.family}, this model is {architecture.family}"
        )
    run.report.announced_bytes = announced_bytes(run, architecture, guider, tuple(noise.shape))
    return ActiveRun(run, RunAttention(plan.attention, run.report), announced_bytes=run.report.announced_bytes)


def prepare_sampling(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
    """PREPARE_SAMPLING: asks the host for room for the caches while it decides how much of the weights to load."""
    options = kwargs.get("model_options") or next((a for a in args[1:] if isinstance(a, dict)), {})
    active = options.get("transformer_options", {}).get(RUN_KEY)
    if active is not None and active.announced_bytes > 0:
        noise_shape = enlarged_shape(model.model, tuple(noise_shape), active.announced_bytes)
    return executor(model, noise_shape, *args, **kwargs)


def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """APPLY_MODEL: one model call. args: x, t, c_concat, c_crossattn, control, transformer_options."""
    options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[5] if len(args) > 5 else {}
    active = options.get(RUN_KEY)
    if active is None:
        return executor(*args, **kwargs)
    comfy.model_management.throw_exception_if_processing_interrupted()
    try:
        architecture = active.architecture(executor.class_obj.diffusion_model, lambda model: describe(model, cast_like))
    except UnsupportedModel as reason:
        active.run.report.note(str(reason))
        return executor(*args, **kwargs)
    site = _site(args[0], options, kwargs, architecture, active.attention)
    call = active.run.open_call(site)
    if isinstance(call, ReuseCall):
        denoised = call.estimate()
    else:
        with swapped_forwards(architecture.blocks, call):
            denoised = executor(*args, **kwargs)
        if active.observe is not None:
            active.observe(call.step, args[0], denoised, site.groups)
    return active.run.close_call(call, denoised)


def _site(
    x: torch.Tensor, options: dict, conditions: dict, architecture: Architecture, attention: RunAttention
) -> CallSite:
    groups = row_groups(x, options)
    sigmas = options.get("sigmas")
    layout = architecture.layout(tuple(x.shape), conditions)
    return CallSite(
        sigma=float(sigmas.flatten()[0]) if sigmas is not None else 0.0,
        groups=groups,
        layout=layout,
        runner=architecture.runner,
        attend=attention.for_call(options, layout.total),
        blocks=len(architecture.blocks),
        device=x.device,
        why_full="" if groups and sigmas is not None else "the host did not say which conditionings are in the call",
    )
