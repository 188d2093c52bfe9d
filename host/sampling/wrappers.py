"""The three wrappers on a MODEL: for a sampler's run, for its memory, and for each model call."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

from ...engine.blocks.interface import RowGroup
from ...engine.calls import ReuseCall
from ...engine.calls.block_hooks import patched_forwards
from ...engine.calls.context import CallRequest
from ...engine.planning.plan import Plan
from ...engine.run import Run
from ...engine.sampler.profile import SamplerProfile
from ...engine.state.residual_store import alone
from ...errors import UnsupportedModel
from ...models import Architecture
from .architectures import architecture_of, describe_on_host
from .attachment import PLAN_KEY, RUN_KEY, ActiveRun, OnModelCall, PlanAttachment, Ranks
from .attention import RunAttention
from .cond_groups import cond_groups
from .guiders import context_length, expected_conditions, guidance_scale, second_model_note, step_cache_reason
from .levels import Level, level_of
from .memory import announced_bytes, enlarged_shape, lasting_memory
from .sampler_probe import profile_of
from .sparse import SPARSE_RUN_KEY

CALLBACK, SEED, LATENT_SHAPES = 5, 7, 8  # indices among the arguments of OUTER_SAMPLE
CROSS_ATTENTION, CONTROL = 3, 4  # indices among the arguments of APPLY_MODEL
CONTROLNETS_RUN = "ControlNets run at skipped steps, too: ComfyUI calls them before it asks for the model"


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Make one run (OUTER_SAMPLE). args: noise, latent image, sampler, sigmas, denoise mask, callback, …, seed."""
    guider = executor.class_obj
    attachment = guider.model_options.get("transformer_options", {}).get(PLAN_KEY)
    if attachment is None:
        return executor(*args, **kwargs)
    began = time.perf_counter()
    original_options = guider.model_options
    level = level_of(guider.model_patcher.get_model_object("model_sampling"))
    seed, shapes = _argument(args, kwargs, SEED, "seed"), _argument(args, kwargs, LATENT_SHAPES, "latent_shapes")
    ranks: Ranks | None = attachment.ranks
    run, announced = _begin(guider, attachment, args, seed, shapes, level)
    attention = RunAttention(attachment.plan.attention, run.writer)
    on_model_call: OnModelCall | None = attachment.on_model_call
    active = ActiveRun(run, attention, level, announced, on_model_call, ranks)
    args, kwargs = _with_step_reports(args, kwargs, run)
    finished = False
    try:
        guider.model_options = comfy.model_patcher.create_model_options_clone(original_options)
        options = guider.model_options["transformer_options"]
        options[RUN_KEY] = active
        active.install_watch(options)
        output = executor(*args, **kwargs)
        finished = True
        return output
    except Exception as error:
        if ranks is not None:  # no name is given to another error here: it would hold this frame, and what is in it
            ranks.raise_named(error)
        raise
    finally:
        guider.model_options = original_options
        run.writer.note(active.option_watch.note())
        run.finish()
        if active.sparse is not None:
            figures = active.sparse.figures
            run.writer.sparse(figures.as_dict(), figures.notes(), figures.tuning_seconds)
        report = run.writer.close(time.perf_counter() - began, finished)
        attachment.handle.add(report)
        if on_model_call is None:  # a search makes many runs, and logs by itself
            logging.info(f"Astraea: {'' if finished else 'stopped early; '}{report.summary()}")


def _argument(args: tuple, kwargs: dict, index: int, name: str) -> Any:
    """Return an argument that hosts pass by index or by name; None where it is missing."""
    return kwargs[name] if name in kwargs else args[index] if len(args) > index else None


def _with_step_reports(args: tuple, kwargs: dict, run: Run) -> tuple[tuple, dict]:
    """Return the arguments with a callback that also reports the sampler's steps to the run."""
    callback = _argument(args, kwargs, CALLBACK, "callback")

    def on_step(step: int, denoised: Any, x: Any, total: int) -> Any:
        run.on_step(int(step))
        return callback(step, denoised, x, total) if callback is not None else None

    if "callback" in kwargs or len(args) <= CALLBACK:
        return args, {**kwargs, "callback": on_step}
    return (*args[:CALLBACK], on_step, *args[CALLBACK + 1 :]), kwargs


def _begin(
    guider: Any, attachment: PlanAttachment, args: tuple, seed: int | None, latent_shapes: Any, level: Level
) -> tuple[Run, int]:
    """Begin a run; returns it and the bytes to announce.

    args: of OUTER_SAMPLE; latent_shapes: of the streams (video, audio) that are packed into one latent, or None.
    """
    noise, sampler, sigmas = args[0], args[2], args[3]
    plan, ranks = attachment.plan, attachment.ranks
    levels = [level(float(sigma)) for sigma in sigmas]
    try:
        architecture = architecture_of(guider.model_patcher)
        if ranks is not None:
            architecture = ranks.share(architecture)
    except UnsupportedModel as reason:
        return Run.of(plan, levels, profile=SamplerProfile.unknown(levels, full_reason=str(reason))), 0
    conditions = expected_conditions(guider, tuple(noise.shape), latent_shapes)
    layout = architecture.layout(tuple(noise.shape), conditions)
    limit = architecture.limit or architecture.layout_limit(layout) or _options_limit(architecture, guider)
    run = Run.of(
        plan,
        levels,
        profile=_profile(plan, guider, sampler, sigmas, levels),
        cost=architecture.cost(layout, context_length(guider)),
        family=architecture.family,
        seed=seed or 0,
        guidance=guidance_scale(guider),
        has_runner=architecture.runner is not None and not limit,
        limit=limit,
        agree=alone if ranks is None else ranks.agree,
    )
    run.writer.note(second_model_note(guider, PLAN_KEY))
    announced = announced_bytes(run, architecture, guider, tuple(noise.shape), layout)
    run.writer.announce(announced)
    return run, announced


def _options_limit(architecture: Architecture, guider: Any) -> str:
    reason = architecture.options_limit(guider.model_options.get("transformer_options", {}))
    return f"no token steps: {reason}" if reason else ""


def _profile(plan: Plan, guider: Any, sampler: Any, sigmas: torch.Tensor, levels: Sequence[float]) -> SamplerProfile:
    """Probe the sampler; but not at full budget, so that even its random numbers are those of a dense run."""
    full_reason = step_cache_reason(guider)
    if plan.is_full or full_reason:
        return SamplerProfile.unknown(levels, full_reason=full_reason)
    return profile_of(guider, sampler, sigmas)


def prepare_sampling(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
    """Ask the host to keep memory free for the caches while it decides how many weights to load (PREPARE_SAMPLING)."""
    options = kwargs.get("model_options") or next((a for a in args[1:] if isinstance(a, dict)), {})
    active = options.get("transformer_options", {}).get(RUN_KEY)
    if active is not None and active.announced_bytes > 0:
        noise_shape = enlarged_shape(model.model, tuple(noise_shape), active.announced_bytes)
    return executor(model, noise_shape, *args, **kwargs)


def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Make one model call (APPLY_MODEL). args: x, t, c_concat, c_crossattn, control, transformer_options."""
    options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[5] if len(args) > 5 else {}
    active = options.get(RUN_KEY)
    if active is None:
        return executor(*args, **kwargs)
    comfy.model_management.throw_exception_if_processing_interrupted()
    try:
        architecture = active.architecture(executor.class_obj.diffusion_model, describe_on_host)
    except UnsupportedModel as reason:
        active.run.writer.note(str(reason))
        return executor(*args, **kwargs)
    active.sparse = options.get(SPARSE_RUN_KEY)
    conditions = {**kwargs, "c_crossattn": _argument(args, kwargs, CROSS_ATTENTION, "c_crossattn")}
    request = _request(args[0], options, conditions, architecture, active)
    active.option_watch.add(request.sigma, options)
    call = active.run.begin_call(request)
    if isinstance(call, ReuseCall):
        if _argument(args, kwargs, CONTROL, "control") is not None:
            active.run.writer.note(CONTROLNETS_RUN)
        return active.run.end_call(call, call.estimate())
    if active.ranks is not None:  # not at skipped steps: they send nothing between the GPUs
        active.ranks.throw_if_interrupted()
    with active.watch_model() as model_ran, patched_forwards(architecture.blocks, call):
        prediction = executor(*args, **kwargs)
        answered = not model_ran()
    if active.on_model_call is not None:
        active.on_model_call(call.info.step, args[0], prediction, request.groups)
    return active.run.end_call(call, prediction, answered)


def _hosts_full_reason(groups: tuple[RowGroup, ...], options: dict) -> str:
    """Return why this call must run in full, whatever the schedule says; "" if it need not."""
    if not groups:
        return "the host did not say which conditionings are in the call"
    if options.get("sigmas") is None:
        return "the host did not say at which noise level the call is"
    if options.get("ar_state") is not None:
        return "frames are made one after another, and each continues from what the model itself keeps of the last"
    return ""


def _request(
    x: torch.Tensor, options: dict, conditions: dict, architecture: Architecture, active: ActiveRun
) -> CallRequest:
    groups, sigmas = cond_groups(x, options), options.get("sigmas")
    layout = architecture.layout(tuple(x.shape), conditions)
    attend = active.attention.for_call(options, layout.total)
    return CallRequest(
        sigma=active.level(float(sigmas.flatten()[0])) if sigmas is not None else 0.0,
        groups=groups,
        layout=layout,
        runner=architecture.runner,
        attend=attend,
        attend_selected=lambda video: partial(attend, selected=video),
        blocks=len(architecture.blocks),
        device=x.device,
        full_reason=_hosts_full_reason(groups, options) or architecture.full_reason(conditions),
        allocating=lasting_memory,
    )
