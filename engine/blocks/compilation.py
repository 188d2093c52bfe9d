"""torch.compile: code that it must leave alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def no_compile(function: Callable[..., Any], *, recursive: bool = True) -> Callable[..., Any]:
    """Return the function for torch.compile to skip; with recursive False, functions that it calls may be compiled."""
    dynamo = sys.modules.get("torch._dynamo")
    # Without the module nothing is being compiled in this process; the import is expensive.
    return function if dynamo is None else dynamo.disable(function, recursive=recursive)
