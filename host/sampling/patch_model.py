"""Puts a plan on a MODEL: a clone carries the plan and three wrappers; nothing of the model is changed."""

from __future__ import annotations

import logging
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...engine.planning.plan import Plan
from ...engine.report import ReportHandle
from ...engine.report.writer import pass_through_report
from ...errors import UnsupportedModel
from ...schedules import ANY_FAMILY
from .architectures import architecture_of
from .attachment import PLAN_KEY, OnModelCall, PlanAttachment
from .put_on_model import put_on_model, take_off_model
from .wrappers import apply_model, outer_sample, prepare_sampling

WRAPPERS = (
    (WrappersMP.OUTER_SAMPLE, outer_sample),
    (WrappersMP.PREPARE_SAMPLING, prepare_sampling),
    (WrappersMP.APPLY_MODEL, apply_model),
)


def family_of(model: Any) -> tuple[str, str]:
    """Return the model's family and ""; ANY_FAMILY and the reason where it cannot be accelerated."""
    try:
        return architecture_of(model).family, ""
    except UnsupportedModel as reason:
        return ANY_FAMILY, str(reason)


def accelerate(model: Any, plan: Plan, handle: ReportHandle, on_model_call: OnModelCall | None = None) -> Any:
    """Return a clone of the MODEL that samples by the plan and reports into the handle.

    A model that cannot be accelerated comes back as a plain clone; the log and the handle say why.
    on_model_call: see `attachment.OnModelCall`.
    """
    accelerated = without_acceleration(model)
    _, unsupported_reason = family_of(model)
    if unsupported_reason:
        note = f"passed through: {unsupported_reason}"
        logging.warning(f"Astraea: {note}.")
        handle.add(pass_through_report(plan.name, note))
        return accelerated
    put_on(accelerated, PlanAttachment(plan, handle, on_model_call))
    return accelerated


def without_acceleration(model: Any) -> Any:
    """Return a clone of the MODEL with any earlier Astraea plan taken off."""
    clone = model.clone()
    take_off(clone)
    return clone


def put_on(model: Any, attachment: PlanAttachment) -> None:
    """Put a plan on the MODEL itself, which must have none."""
    put_on_model(model, PLAN_KEY, attachment, WRAPPERS)


def take_off(model: Any) -> PlanAttachment | None:
    """Take the plan off the MODEL itself; returns it, or None where there was none."""
    attachment: PlanAttachment | None = take_off_model(model, PLAN_KEY, WRAPPERS)
    return attachment
