"""Puts a plan onto a MODEL. Nothing of the model is changed; the clone carries two kinds of wrapper and the plan."""

from __future__ import annotations

import logging
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...engine.plan import Plan
from ...engine.report import Report, ReportHandle
from ...errors import UnsupportedModel
from ...models import Architecture, describe
from .attachment import KEY, Attachment, Observe
from .casting import cast_like
from .wrappers import apply_model, outer_sample, prepare_sampling

WRAPPERS = (
    (WrappersMP.OUTER_SAMPLE, outer_sample),
    (WrappersMP.PREPARE_SAMPLING, prepare_sampling),
    (WrappersMP.APPLY_MODEL, apply_model),
)


def architecture_of(model: Any) -> Architecture:
    """The architecture of a MODEL. Raises UnsupportedModel with the reason."""
    return describe(model.get_model_object("diffusion_model"), cast_like)


def family_of(model: Any) -> tuple[str, str]:
    """The model's family and, where it cannot be accelerated, the reason (family "any" then)."""
    try:
        return architecture_of(model).family, ""
    except UnsupportedModel as reason:
        return "any", str(reason)


def accelerate(model: Any, plan: Plan, handle: ReportHandle, observe: Observe | None = None) -> Any:
    """A clone of the MODEL that samples by the plan and reports into the handle.

    A model that cannot be accelerated comes back as a plain clone; the log and the handle say why.
    observe: told of every model call that is computed.
    """
    accelerated = without_acceleration(model)
    _, why_not = family_of(model)
    if why_not:
        logging.warning(f"Astraea: the model passes through unchanged: {why_not}.")
        handle.add(Report(schedule=plan.schedule.name, notes=[f"the model passes through unchanged: {why_not}"]))
        return accelerated
    accelerated.model_options.setdefault("transformer_options", {})[KEY] = Attachment(plan, handle, observe)
    for kind, wrapper in WRAPPERS:
        accelerated.add_wrapper_with_key(kind, KEY, wrapper)
    return accelerated


def without_acceleration(model: Any) -> Any:
    """A clone of the MODEL with any earlier Astraea plan taken off."""
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {}).pop(KEY, None)
    for kind, _ in WRAPPERS:
        clone.remove_wrappers_with_key(kind, KEY)
    return clone
