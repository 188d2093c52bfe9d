"""ComfyUI's entry point to the Astraea node pack."""

from __future__ import annotations

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension with all nodes; ComfyUI calls this when it loads the pack."""
    from .nodes import AstraeaExtension

    return AstraeaExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
