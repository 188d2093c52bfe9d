"""The host's own nodes, called as its prompt worker calls them, on every host version."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def call(module: str, node_id: str, **inputs: Any) -> Any:
    """What the first output of a node is. Skips the test where this host has no such node."""
    result = _call(_node(module, node_id), inputs)
    return getattr(result, "args", result)[0]


def outputs(module: str, node_id: str, **inputs: Any) -> tuple[Any, ...]:
    """All outputs of a node."""
    result = _call(_node(module, node_id), inputs)
    return tuple(getattr(result, "args", result))


def _call(node: Any, inputs: dict[str, Any]) -> Any:
    if hasattr(node, "define_schema"):
        known = {each.id: getattr(each, "default", None) for each in node.define_schema().inputs}
        defaults = {name: value for name, value in known.items() if value is not None}
        return node.execute(**(defaults | inputs))  # as the editor does: newer hosts' nodes have more inputs
    return getattr(node(), node.FUNCTION)(**inputs)


def _node(module: str, node_id: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        pytest.skip(f"this ComfyUI has no {node_id} (no {module})")
    if node_id in getattr(found, "NODE_CLASS_MAPPINGS", {}):
        return found.NODE_CLASS_MAPPINGS[node_id]
    for node in vars(found).values():
        ours = isinstance(node, type) and node.__module__ == module and hasattr(node, "define_schema")
        if ours and node.define_schema().node_id == node_id:
            return node
    pytest.skip(f"this ComfyUI has no {node_id}")
