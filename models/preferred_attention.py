"""The attention that a layer asks for. Newer ComfyUIs keep it in the layer, as the checkpoint may name one."""

from __future__ import annotations

from typing import Any


def preferred_attention(layer: Any) -> dict[str, Any]:
    """Return the argument of `attend` that passes on a layer's own attention; {} where the layer asks for none."""
    own = getattr(layer, "comfy_attention", None)
    return {} if getattr(own, "function", None) is None else {"preferred": own}
