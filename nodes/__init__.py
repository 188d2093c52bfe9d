"""The nodes of the pack: V3 nodes with schema, tooltips and validation; other packages do the work."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..host.help_pages import serve_help_pages
from .accelerate import AstraeaAccelerate
from .accelerate_raylight import AstraeaAccelerateRaylight
from .compare import AstraeaCompare
from .demo import AstraeaDemoModel, AstraeaDemoPrompt, AstraeaDemoView
from .report import AstraeaReport
from .schedules import AstraeaScheduleInline, AstraeaScheduleLoad, AstraeaScheduleSave
from .search import AstraeaSearch
from .sparse import AstraeaSparseAttention
from .sparse_raylight import AstraeaSparseAttentionRaylight

NODES = [
    AstraeaAccelerate,
    AstraeaSparseAttention,
    AstraeaAccelerateRaylight,
    AstraeaSparseAttentionRaylight,
    AstraeaSearch,
    AstraeaScheduleLoad,
    AstraeaScheduleSave,
    AstraeaScheduleInline,
    AstraeaReport,
    AstraeaCompare,
    AstraeaDemoModel,
    AstraeaDemoPrompt,
    AstraeaDemoView,
]


class AstraeaExtension(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        serve_help_pages()  # not in `on_load`, which the oldest hosts do not call
        return NODES
