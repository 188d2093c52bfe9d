"""Sparse attention by comfy-kitchen, which newer ComfyUIs bring: it selects key tiles itself, for full calls.

Its selection is routing by the means of tiles in the model's order, with 8-bit scores.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from .key_tiles import KEY_TILE

HEAD_DIM = 128


def _package() -> Any:
    try:
        return importlib.import_module("comfy_kitchen")
    except Exception:  # broken builds raise errors of any type
        return None


def unsupported_reason(q: Tensor, k: Tensor, before: int, after: int) -> str:
    """Return why it cannot compute a call; "" if it can. before, after: rows at the ends that all queries attend to."""
    package = _package()
    if not hasattr(package, "sol_attn") or not hasattr(package, "sol_attn_is_available"):
        return "this comfy-kitchen has no sparse attention"
    if q.device.type != "cuda" or not package.sol_attn_is_available(q.device):
        return "comfy-kitchen has no sparse attention for this device"
    if q.shape != k.shape:
        return "comfy-kitchen's sparse attention takes as many queries as keys"
    if q.shape[-1] != HEAD_DIM or q.dtype not in (torch.float16, torch.bfloat16):
        return f"comfy-kitchen's sparse attention takes heads of {HEAD_DIM} in half precision"
    return "comfy-kitchen's sparse attention spares rows at one end only" if before and after else ""


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, density: float, before: int, after: int) -> Tensor:
    """Attend to a share `density` of the key tiles; rows at an end attend to all, and all to them.

    q, k, v and the output: `[B, N, H, 128]`.
    """
    rows = k.shape[1]
    tiles = [0, -(-before // KEY_TILE)] if before else [(rows - after) // KEY_TILE, -(-rows // KEY_TILE)]
    spared = tiles if before or after else [0, 0]
    return _package().sol_attn(
        q, k, v, tau=0.0, scale=scale, sink_blocks=spared, sink_q=spared, topk_ratio=density, token_aug=0
    )
