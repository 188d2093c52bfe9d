"""Code that runs inside raylight's workers: plans on the worker's own MODEL for the length of one sampler call.

Called with the worker's MODEL by the function that `actors` sends; takes and returns plain data.
"""

from __future__ import annotations

import itertools
import weakref
from functools import partial
from typing import Any

from ...engine.blocks.interface import class_name
from ...engine.planning.plan import make_plan
from ...engine.report import ReportHandle
from ...engine.sparse.plan import SparsePlan
from ...version import VERSION
from ..sampling import patch_model, sparse
from ..sampling.attachment import PlanAttachment
from .local_attention import reach_raylight
from .messages import ACCELERATE, SPARSE, Degrees, plan_from, report_values
from .ranks import WorkerRanks, groups_of

_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # of loaded models, by their objects
_next_number = itertools.count(1)


def describe(model: Any) -> dict[str, Any]:
    """Return the pack's version here, the model's class, and why it cannot be accelerated, or "".

    number: of this loaded model, for as long as it is in the worker; all clones have it.
    """
    if model is None:
        return {"version": VERSION, "model": "", "reason": "", "number": 0}
    if model.model not in _numbers:
        _numbers[model.model] = next(_next_number)
    _, reason = patch_model.family_of(model)
    name = class_name(model.model)
    return {"version": VERSION, "model": name, "reason": reason, "number": _numbers[model.model]}


def begin(model: Any, plans: dict[str, Any], degrees: dict[str, Any], rank: int, interrupt_file: str) -> None:
    """Put plans, by kind, on the worker's MODEL itself: nobody else uses it, and raylight compares it with its clones.

    rank: of this worker among all; interrupt_file: see `WorkerRanks`.
    """
    end(model)
    known = Degrees(**degrees)
    ranks = WorkerRanks(rank, known, groups_of(known), interrupt_file)
    # Without a plan of the user's every step is full: it brings Stop, and errors that name the GPU.
    plan = plan_from(plans[ACCELERATE]) if ACCELERATE in plans else make_plan(None, budget=1.0)
    patch_model.put_on(model, PlanAttachment(plan, ReportHandle(), ranks=ranks))
    if SPARSE in plans:
        reach = partial(reach_raylight, ring=known.ring)
        attachment = sparse.SparseAttachment(SparsePlan(**plans[SPARSE]), ReportHandle(), reach, padded=True)
        sparse.put_on(model, attachment)


def end(model: Any) -> dict[str, list[dict[str, Any]]]:
    """Take the plans off; returns the reports of what ran with each."""
    attachments = {ACCELERATE: patch_model.take_off(model), SPARSE: sparse.take_off(model)}
    return {
        kind: [report_values(report) for report in attachment.handle.reports]
        for kind, attachment in attachments.items()
        if attachment is not None
    }
