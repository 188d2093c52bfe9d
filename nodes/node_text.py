"""What a run came to, as text on the node that accelerated it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server import PromptServer

from ..engine.report import REUSE, Report


def shows_on(hidden: Any) -> Callable[[Report], None] | None:
    """Return a function that shows reports on a node; None where the host does not say which node it is.

    hidden: the host's hidden inputs of the node, with its id.
    """
    node = getattr(hidden, "unique_id", None)
    server: Any = getattr(PromptServer, "instance", None)
    if node is None or not hasattr(server, "send_progress_text"):
        return None
    return lambda report: server.send_progress_text(node_text(report), node)


def node_text(report: Report) -> str:
    """Format what a video maker wants to know first: the gain, and a line for each remark."""
    if not report.calls:
        return "\n".join(report.notes) or "Nothing has been run yet."
    computed = sum(call.kind != REUSE for call in report.calls)
    gain = f"{report.speedup:.2f}x the speed, " if report.speedup is not None else ""
    stopped = "" if report.finished else "stopped early: "
    return "\n".join([f"{stopped}{gain}{computed} of {len(report.calls)} model calls computed", *report.notes])
