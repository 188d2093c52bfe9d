"""Architectures: a loaded diffusion model as a stack of blocks, or as a box of which only its calls are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import prod
from pkgutil import iter_modules
from typing import Any

from torch import Tensor, nn

from ..engine.blocks.interface import BlockRunner, TokenLayout, unwrap
from ..engine.planning.cost import BlockCost
from ..errors import UnsupportedModel
from ..schedules import ANY_FAMILY

Cast = Callable[[Tensor, Tensor], Tensor]
"""cast(parameter, like): a bare parameter in a tensor's dtype and on its device, wherever the host keeps it."""


@dataclass(frozen=True)
class Architecture:
    """One loaded diffusion model.

    family: the word by which schedules are chosen; blocks: the modules whose `forward` is hooked; runner: runs them for
    selected tokens, None for a box; layout: counts of a call's tokens, from the latent's shape and the call's extra
    conditions; cost: sizes of one block, from a call's tokens and the text's, None for a box.
    """

    family: str
    blocks: Sequence[nn.Module] | nn.ModuleList
    runner: BlockRunner | None
    layout: Callable[[tuple[int, ...], dict], TokenLayout]
    cost: Callable[[int, int | None], BlockCost] | None
    dim: int = 0


def describe(diffusion_model: Any, cast: Cast) -> Architecture:
    """Return the architecture of a diffusion model. Raises UnsupportedModel with the reason for one not supported."""
    model = unwrap(diffusion_model)
    for family in _families():
        architecture = family.describe_model(model, cast)
        if architecture is not None:
            return architecture
    raise UnsupportedModel(f"models of class {type(model).__name__} are not supported; supported are {supported()}")


def supported() -> str:
    """Return the names of the models that have a file here, for users."""
    return ", ".join(family.SUPPORTED for family in _families())


def describe_box(family: str = ANY_FAMILY) -> Architecture:
    """Return the architecture of a model whose blocks are not known: whole steps can be skipped, tokens cannot.

    Each position of the latent counts as a token.
    """
    return Architecture(family, (), None, lambda shape, conditions: TokenLayout(video=prod(shape[2:])), None)


@cache
def _families() -> tuple[Any, ...]:
    """Return the modules of this folder that describe a family of models.

    Such a module has `SUPPORTED`, the models' names, and `describe_model(model, cast)`, which returns None for models
    of other families and raises UnsupportedModel for variants of its own that it cannot run.
    """
    package = __name__.rpartition(".")[0]
    names = sorted(module.name for module in iter_modules(import_module(package).__path__))
    modules = (import_module(f"{package}.{name}") for name in names)
    return tuple(module for module in modules if hasattr(module, "describe_model"))
