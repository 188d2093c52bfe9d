"""The node `Astraea Accelerate (Raylight)`: raylight's workers follow a plan. It needs raylight only when it runs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..engine.planning.modes import PAPER, mode_named
from ..engine.planning.plan import Plan
from ..engine.report import ReportHandle
from ..errors import InputError
from ..host.raylight.workers import accelerate_workers
from .accelerate import TIPS as ACCELERATE_TIPS
from .accelerate import check_schedule, plan_inputs, stamp_of
from .accelerate_inputs import AUTO, TOKEN_STEPS, WHOLE_STEPS, AccelerateInputs, choose_plan
from .checks import schedule_of
from .node_text import shows_on
from .schema import NOT_LINKED, RayActorsType, ReportType, field, node_schema

MODES = (AUTO, WHOLE_STEPS, TOKEN_STEPS)
TIPS = {
    **ACCELERATE_TIPS,
    "ray_actors": "raylight's workers, from one of its model loaders; after its other nodes and before its sampler. A "
    "step that is skipped is skipped on all GPUs. Needs the node pack raylight.",
    "mode": "How work is saved. 'auto' takes what was best in our measurements. 'whole steps': some steps run the "
    "model on all GPUs, the others are forecast and corrected; works with every model. 'token steps': steps run the "
    "model for a part of the video's tokens, each GPU within its own part of the clip; for Wan, with raylight's "
    "cfg_degree 1 and without FSDP.",
    "cache": "Where the results of every block are kept for token steps: on each GPU those of its own part of the "
    "clip. 'auto' starts with the fastest; where memory is short on one GPU, all step down: full, fp8 (half the "
    "memory), fp8-host (in main memory), none (whole steps only).",
}


class AstraeaAccelerateRaylight(io.ComfyNode):
    """Puts a plan on raylight's workers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaAccelerateRaylight",
            display_name="Astraea Accelerate (Raylight)",
            description="Astraea Accelerate for a clip that raylight computes on several GPUs: some of the sampling "
            "steps are computed, on all GPUs together, the others are forecast. Place it between raylight's model "
            "loader and raylight's sampler. It needs the node pack raylight.",
            search_aliases=["multi gpu", "multigpu", "several gpus", "raylight", "xfuser", "多卡", "マルチGPU"],
            inputs=[field(RayActorsType, "ray_actors", tooltip=TIPS["ray_actors"]), *plan_inputs(MODES, TIPS)],
            hidden=[io.Hidden.unique_id],
            outputs=[
                RayActorsType.Output(
                    "accelerated", display_name="ray_actors", tooltip="The accelerated workers; to raylight's sampler."
                ),
                ReportType.Output(
                    "report",
                    display_name="report",
                    tooltip="Filled while sampling, by the first GPU; read it with Astraea Report.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, schedule: str | None = None, astraea_schedule: Any = NOT_LINKED) -> bool | str:
        return check_schedule(schedule, astraea_schedule)

    @classmethod
    def fingerprint_inputs(cls, schedule: str | None = None, astraea_schedule: Any = NOT_LINKED, **_: Any) -> Hashable:
        return stamp_of(schedule, astraea_schedule)

    @classmethod
    def execute(
        cls,
        ray_actors: Any,
        schedule: str,
        budget: float,
        target_speedup: float,
        astraea_schedule: Any = None,
        mode: str = AUTO,
        cache: str = "auto",
    ) -> io.NodeOutput:
        chosen = schedule if astraea_schedule is None else schedule_of("astraea_schedule", astraea_schedule)
        plan = _for_workers(choose_plan(AccelerateInputs(chosen, budget, target_speedup, mode, cache)))
        handle = ReportHandle(on_report=shows_on(cls.hidden))
        return io.NodeOutput(accelerate_workers(ray_actors, plan, handle), handle)


def _for_workers(plan: Plan) -> Plan:
    """Return the plan without what raylight's attention cannot serve: mode `paper` reads its log-sum-exps."""
    mode = plan.mode or (mode_named(plan.schedule.mode) if plan.schedule is not None else None)
    if mode is PAPER:
        raise InputError(f"Mode '{mode.name}' works on one GPU only. Choose another mode or schedule.")
    return replace(plan, library=tuple(each for each in plan.library if each.mode != PAPER.name))
