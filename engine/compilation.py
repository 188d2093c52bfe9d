"""torch.compile: what it must leave alone. No comfy import: the demonstration without ComfyUI needs it, too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def untraced(function: Callable[..., Any], *, recursive: bool = True) -> Callable[..., Any]:
    """The function as torch.compile leaves it alone; with recursive False what it calls may still be compiled."""
    dynamo = sys.modules.get("torch._dynamo")
    # Without the module nothing is being compiled in this process; do not pay for the import.
    return function if dynamo is None else dynamo.disable(function, recursive=recursive)
