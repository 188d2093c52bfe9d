"""Texts on the user's nodes, while and after they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server import PromptServer


def text_on(node_id: str | None) -> Callable[[str], None] | None:
    """Return a function that shows a text on a node; None without the node's id, or where the host cannot."""
    server: Any = getattr(PromptServer, "instance", None)
    if node_id is None or not hasattr(server, "send_progress_text"):
        return None
    return lambda text: server.send_progress_text(text, node_id)
