"""Shared by the host tests of sparse attention."""

from __future__ import annotations

from typing import Any

from astraea.engine.report import ReportHandle
from astraea.engine.sparse.plan import OWN, SparsePlan
from astraea.host.sampling.sparse import attend_sparsely

SMALL = {"min_tokens": 0, "kernel": OWN, "dense_layers": 0, "query_tile": 16, "key_tile": 8}


def sparsely(model: Any, **plan: Any) -> tuple[Any, ReportHandle]:
    """The MODEL with sparse attention on small tiles, and the handle of its reports."""
    handle = ReportHandle()
    return attend_sparsely(model, SparsePlan(**(SMALL | plan)), handle), handle
