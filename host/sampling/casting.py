"""Casting of bare parameters, wherever the host keeps them."""

from __future__ import annotations

import comfy.model_management
from torch import Tensor


def cast_like(parameter: Tensor, like: Tensor) -> Tensor:
    """Return a bare parameter in another tensor's dtype and on its device."""
    return comfy.model_management.cast_to(parameter, dtype=like.dtype, device=like.device)
