"""Small services of the host in the shapes that `models` and `engine` expect."""

from __future__ import annotations

import comfy.model_management
from torch import Tensor


def cast_like(parameter: Tensor, like: Tensor) -> Tensor:
    """A bare parameter in another tensor's dtype and on its device, wherever the host keeps it."""
    return comfy.model_management.cast_to(parameter, dtype=like.dtype, device=like.device)
