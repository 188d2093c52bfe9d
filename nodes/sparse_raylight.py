"""The node `Astraea Sparse Attention (Raylight)`: raylight's workers attend sparsely."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..engine.report import ReportHandle
from ..host.raylight.workers import attend_sparsely_in_workers
from .node_text import shows_on
from .schema import RayActorsType, ReportType, field, node_schema
from .sparse import sparse_inputs, sparse_plan

ACTORS_TIP = (
    "raylight's workers, from one of its model loaders; after its other nodes and before its sampler, before or after "
    "Astraea Accelerate (Raylight). Needs the node pack raylight."
)


class AstraeaSparseAttentionRaylight(io.ComfyNode):
    """Puts a plan for sparse attention on raylight's workers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaSparseAttentionRaylight",
            display_name="Astraea Sparse Attention (Raylight)",
            description="Astraea Sparse Attention for a clip that raylight computes on several GPUs: each GPU attends "
            "sparsely for its share of the heads. It needs the node pack raylight, with ring_degree 1.",
            search_aliases=["multi gpu", "raylight", "sparse", "rainfusion", "attention"],
            inputs=[field(RayActorsType, "ray_actors", tooltip=ACTORS_TIP), *sparse_inputs()],
            hidden=[io.Hidden.unique_id],
            outputs=[
                RayActorsType.Output(
                    "sparse", display_name="ray_actors", tooltip="The workers; to raylight's sampler or the next node."
                ),
                ReportType.Output(
                    "report",
                    display_name="report",
                    tooltip="Filled while sampling, by the first GPU; read it with Astraea Report.",
                ),
            ],
        )

    @classmethod
    def execute(cls, ray_actors: Any, density: float, **settings: Any) -> io.NodeOutput:
        handle = ReportHandle(on_report=shows_on(cls.hidden))
        plan = sparse_plan(density, **settings)
        return io.NodeOutput(attend_sparsely_in_workers(ray_actors, plan, handle), handle)
