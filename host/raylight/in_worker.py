"""Code that runs inside raylight's workers: plans on the worker's own MODEL for the length of one sampler call.

Called with the worker's MODEL by the function that `actors` sends; takes and returns plain data.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ...engine.report import ReportHandle
from ...engine.sparse.plan import SparsePlan
from ...version import VERSION
from ..sampling import patch_model, sparse
from ..sampling.attachment import PlanAttachment
from .local_attention import reach_raylight
from .messages import ACCELERATE, SPARSE, Degrees, plan_from, report_values
from .ranks import WorkerRanks, groups_of


def describe(model: Any) -> dict[str, Any]:
    """Return the pack's version here, the model's class, and why it cannot be accelerated, or ""."""
    if model is None:
        return {"version": VERSION, "model": "", "reason": ""}
    _, reason = patch_model.family_of(model)
    return {"version": VERSION, "model": type(model.model).__name__, "reason": reason}


def begin(model: Any, plans: dict[str, Any], degrees: dict[str, Any], rank: int, interrupt_file: str) -> None:
    """Put plans, by kind, on the worker's MODEL itself: nobody else uses it, and raylight compares it with its clones.

    rank: of this worker among all; interrupt_file: see `WorkerRanks`.
    """
    end(model)
    known = Degrees(**degrees)
    if ACCELERATE in plans:
        ranks = WorkerRanks(rank, known, groups_of(known), interrupt_file)
        patch_model.put_on(model, PlanAttachment(plan_from(plans[ACCELERATE]), ReportHandle(), ranks=ranks))
    if SPARSE in plans:
        reach = partial(reach_raylight, ring=known.ring)
        sparse.put_on(model, sparse.SparseAttachment(SparsePlan(**plans[SPARSE]), ReportHandle(), reach))


def end(model: Any) -> dict[str, list[dict[str, Any]]]:
    """Take the plans off; returns the reports of what ran with each."""
    attachments = {ACCELERATE: patch_model.take_off(model), SPARSE: sparse.take_off(model)}
    return {
        kind: [report_values(report) for report in attachment.handle.reports]
        for kind, attachment in attachments.items()
        if attachment is not None
    }
