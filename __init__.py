"""ComfyUI's door to the Astraea node pack."""

from __future__ import annotations

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI when the pack is loaded; returns the extension with all nodes."""
    from .nodes import AstraeaExtension

    return AstraeaExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
