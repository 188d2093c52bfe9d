"""Texts on the user's nodes, while and after they run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def text_on(node_id: str | None) -> Callable[[str], None] | None:
    """Return a function that shows a text on a node; None without the node's id, or where the host cannot."""
    if node_id is None:
        return None
    # Not at the top: outside of a server, older hosts' `server` needs other modules loaded before.
    server: Any = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if not hasattr(server, "send_progress_text"):
        return None
    return lambda text: server.send_progress_text(text, node_id)
