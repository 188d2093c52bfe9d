"""Which diffusion models are known, and what the host needs to know about each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..engine.cost import BlockCost
from ..engine.interface import BlockRunner, TokenLayout, unwrap
from ..errors import UnsupportedModel
from . import wan


@dataclass(frozen=True)
class Architecture:
    """One loaded diffusion model, seen as a stack of blocks.

    family: the word by which schedules are chosen; blocks: the modules whose `forward` is swapped; layout: where the
    video tokens of a call lie, from the latent's shape and the call's extra conditions.
    """

    family: str
    blocks: Sequence[nn.Module] | nn.ModuleList
    runner: BlockRunner
    layout: Callable[[tuple[int, ...], dict], TokenLayout]
    cost: Callable[[int, int | None], BlockCost]
    dim: int
    patch: tuple[int, int, int]


def describe(diffusion_model: Any, cast: Callable) -> Architecture:
    """The architecture of a diffusion model.

    cast: the host's function that brings a bare parameter to a tensor's dtype and device, `cast(parameter, like)`.
    Raises UnsupportedModel with the reason when its blocks are not known.
    """
    model = unwrap(diffusion_model)
    if wan.is_wan(model):
        wan.check(model)
        return Architecture(
            family="wan",
            blocks=model.blocks,
            runner=wan.WanRunner(cast),
            layout=lambda shape, conditions: wan.layout(model, shape, conditions),
            cost=lambda tokens, context: wan.cost(model, tokens, context),
            dim=model.dim,
            patch=tuple(model.patch_size),
        )
    raise UnsupportedModel(f"models of class {type(model).__name__} are not supported; supported are Wan 2.1 and 2.2")
