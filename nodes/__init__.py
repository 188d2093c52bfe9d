"""What a user sees in the graph: V3 nodes with their schema, tooltips and validation, then one call down."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..host.folders import register_tiny_model
from .accelerate import AstraeaAccelerate
from .compare import AstraeaCompare
from .demo import AstraeaDemoPrompt, AstraeaDemoView
from .report import AstraeaReport
from .schedules import AstraeaScheduleInline, AstraeaScheduleLoad, AstraeaScheduleSave
from .search import AstraeaSearch

NODES = [
    AstraeaAccelerate,
    AstraeaSearch,
    AstraeaScheduleLoad,
    AstraeaScheduleSave,
    AstraeaScheduleInline,
    AstraeaReport,
    AstraeaCompare,
    AstraeaDemoPrompt,
    AstraeaDemoView,
]


class AstraeaExtension(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_tiny_model()  # here and not in on_load, which older hosts do not call
        return NODES


__all__ = ["NODES", "AstraeaExtension"]
