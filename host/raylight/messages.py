"""Messages between ComfyUI's process and the workers: plain data, as each side loads the pack for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ...engine.planning.plan import Plan, make_plan
from ...engine.report import CallRecord, Report
from ...engine.sparse.plan import SparsePlan
from ...schedules import Schedule, parse, serialise

ACCELERATE, SPARSE = "accelerate", "sparse"  # kinds of plans


@dataclass(frozen=True)
class Degrees:
    """Division of the work by raylight. sequence: parts of the tokens; cfg: of the conditionings; data: clips at once.

    ring: of the parts of the tokens, those that pass keys on instead of exchanging heads; shared_weights: each GPU
    has a part of the weights (FSDP); pipeline: each has some of the blocks (PipeFusion).
    """

    gpus: int
    sequence: int = 1
    cfg: int = 1
    data: int = 1
    ring: int = 1
    shared_weights: bool = False
    pipeline: bool = False

    @classmethod
    def of(cls, gpus: int, settings: Mapping[str, Any]) -> Degrees:
        """Return the degrees in the settings that raylight's initializer gives its workers."""

        def degree(name: str) -> int:
            return max(1, int(settings.get(name) or 1))

        splits = bool(settings.get("is_xdit"))
        ring = degree("ring_degree") if splits else 1
        sequence = degree("ulysses_degree") * ring if splits else 1
        cfg = degree("cfg_degree") if splits else 1
        shared_weights, pipeline = bool(settings.get("is_fsdp")), bool(settings.get("pipefusion_enabled"))
        data = degree("dp_degree") if shared_weights or pipeline else max(1, gpus // (sequence * cfg))
        return cls(gpus, sequence, cfg, data, ring, shared_weights, pipeline)

    @property
    def text(self) -> str:
        """Describe them for the report: "4 GPUs, sequence 2 × cfg 2"."""
        names = (("sequence", self.sequence), ("cfg", self.cfg), ("clips", self.data))
        parts = [f"{name} {degree}" for name, degree in names if degree > 1]
        shared = ["shared weights"] if self.shared_weights else []
        count = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        return ", ".join(filter(None, [count, " × ".join(parts), *shared]))


def plan_values(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain values; `plan_from` reads them."""
    return {
        "schedule": serialise(plan.schedule) if plan.schedule is not None else None,
        "mode": plan.mode.name if plan.mode is not None else None,
        "budget": plan.budget,
        "target_speedup": plan.target_speedup,
        "cache": plan.cache.name,
        "attention": plan.attention,
        "library": [serialise(schedule) for schedule in plan.library],
    }


def plan_from(values: Mapping[str, Any]) -> Plan:
    """Return the plan of such values. Raises ScheduleError or BudgetError."""
    schedule: Schedule | None = parse(values["schedule"]) if values["schedule"] is not None else None
    others = {name: value for name, value in values.items() if name not in ("schedule", "library")}
    return make_plan(schedule, **others, library=[parse(text) for text in values["library"]])


def sparse_values(plan: SparsePlan) -> dict[str, Any]:
    """Return a plan for sparse attention as plain values, from which SparsePlan can be made again."""
    return asdict(plan)


def report_values(report: Report) -> dict[str, Any]:
    """Return a report as plain values; `report_from` reads them."""
    return asdict(report)


def report_from(values: Mapping[str, Any]) -> Report:
    """Return the report of such values."""
    known = {field.name for field in fields(Report)}
    report = Report(**{name: value for name, value in values.items() if name in known})
    return replace(report, calls=[CallRecord(**call) for call in values["calls"]])


def merged(reports: Sequence[Report], degrees: Degrees) -> Report:
    """Return the report of the first GPU, with all GPUs' names, and what differs on the others among its notes.

    reports: of one run, by GPU.
    """
    first = reports[0]
    notes = list(first.notes)
    for number, other in enumerate(reports[1:], start=2):
        differing = [f"GPU {number}: {note}" for note in other.notes if note not in first.notes]
        if degrees.data == 1 and _steps(other) != _steps(first):  # of other clips they may differ
            differing.append(f"GPU {number} computed other steps than GPU 1: please report this")
        if other.cache_policy != first.cache_policy:
            differing.append(f"GPU {number} kept results of blocks as '{other.cache_policy}'")
        notes += [note for note in differing if note not in notes]
    finished = all(report.finished for report in reports)
    most = max(report.cache_bytes for report in reports)
    return replace(first, devices=degrees.text, notes=notes, finished=finished, cache_bytes=most)


def _steps(report: Report) -> list[tuple[int, str]]:
    return [(call.step, call.kind) for call in report.calls]
