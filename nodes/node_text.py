"""Texts that say on a node what came of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine.report import Report
from ..host.node_texts import text_on
from .report_text import gain_line


def shows_on(hidden: Any) -> Callable[[Report], None] | None:
    """Return a function that shows reports on a node; None where the host does not say which node it is.

    hidden: the host's hidden inputs of the node, with its id.
    """
    show = text_on(getattr(hidden, "unique_id", None))
    return None if show is None else lambda report: show(node_text(report))


def node_text(report: Report) -> str:
    """Format what a video maker wants to know first: the gain in two lines, then a line for each remark."""
    sparse = [str(report.sparse["line"])] if report.sparse else []
    stopped = "" if report.finished else "stopped early: "
    if report.calls:
        gain, _, computed = gain_line(report).rpartition(" · ")  # two lines: the node may be narrow
        return "\n".join([stopped + "\n".join(filter(None, (gain, computed))), *sparse, *report.notes])
    if sparse:
        return "\n".join([stopped + sparse[0], *report.notes])
    return "\n".join(report.notes) or "Nothing has been run yet."
