"""Texts that say on a node what came of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine.report import REUSE, Report
from ..host.node_texts import text_on


def shows_on(hidden: Any) -> Callable[[Report], None] | None:
    """Return a function that shows reports on a node; None where the host does not say which node it is.

    hidden: the host's hidden inputs of the node, with its id.
    """
    show = text_on(getattr(hidden, "unique_id", None))
    return None if show is None else lambda report: show(node_text(report))


def node_text(report: Report) -> str:
    """Format what a video maker wants to know first: the gain, and a line for each remark."""
    sparse = [str(report.sparse["line"])] if report.sparse else []
    if not report.calls and sparse:
        return "\n".join(["stopped early: " * (not report.finished) + sparse[0], *report.notes])
    if not report.calls:
        return "\n".join(report.notes) or "Nothing has been run yet."
    computed = sum(call.kind != REUSE for call in report.calls)
    gain = f"{report.speedup:.2f}x the speed, " if report.speedup is not None else ""
    stopped = "" if report.finished else "stopped early: "
    return "\n".join([f"{stopped}{gain}{computed} of {len(report.calls)} model calls computed", *sparse, *report.notes])
