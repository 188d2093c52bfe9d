"""Architectures of the host's models, which get their weights wherever the host keeps them."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...models import Architecture, describe
from .weights import cast_like

describe_on_host = partial(describe, cast=cast_like)


def architecture_of(model: Any) -> Architecture:
    """Return the architecture of a MODEL. Raises UnsupportedModel with the reason."""
    return describe_on_host(model.get_model_object("diffusion_model"))
