"""Architectures of the host's models, which cast bare parameters wherever the host keeps them."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_management
from torch import Tensor

from ...models import Architecture, describe


def cast_like(parameter: Tensor, like: Tensor) -> Tensor:
    """Return a bare parameter in another tensor's dtype and on its device."""
    return comfy.model_management.cast_to(parameter, dtype=like.dtype, device=like.device)


describe_on_host = partial(describe, cast=cast_like)


def architecture_of(model: Any) -> Architecture:
    """Return the architecture of a MODEL. Raises UnsupportedModel with the reason."""
    return describe_on_host(model.get_model_object("diffusion_model"))
