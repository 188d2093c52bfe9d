"""Architectures: a loaded diffusion model as a stack of blocks, or as a box of which only its calls are known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from math import prod
from pkgutil import iter_modules
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..engine.blocks.interface import BlockRunner, TokenLayout, class_name, unwrap
from ..engine.planning.cost import WHOLE_STEPS, BlockCost
from ..errors import UnsupportedBlocks
from ..schedules import ANY_FAMILY
from .linears import Slices
from .refused import full_reason, refuse
from .token_grid import guessed_layout


class Cast(Protocol):
    """Weights of a model, wherever the host keeps them.

    cast(parameter, like): a bare parameter in a tensor's dtype and on its device; cast.slices: parts of Linears.
    """

    def __call__(self, parameter: Tensor, like: Tensor, /) -> Tensor: ...

    @property
    def slices(self) -> Slices: ...


Layout = Callable[[tuple[int, ...], Mapping[str, Any]], TokenLayout]


@dataclass(frozen=True)
class Architecture:
    """One loaded diffusion model.

    family: the word by which schedules are chosen; blocks: the modules whose `forward` is hooked; runner: runs them for
    selected tokens, None for a box; layout: counts of a call's tokens, from the latent's shape and the call's
    conditions by the host's names; attention_layout: the same for the rows of its self-attention, where they differ;
    cost: of an average block, from a call's tokens and the text's.
    dim: channels of a token in the blocks; hidden_dtype: of the hidden states, from what the model computes in.
    limit: why a box has whole steps alone, or ""; options_limit: why a run with such transformer options has, as its
    blocks could never run for selected tokens, or ""; layout_limit: why one with calls of such tokens has, or "";
    full_reason: why a call must be computed whatever the schedule says, from its conditions, or "".
    """

    family: str
    blocks: Sequence[nn.Module] | nn.ModuleList
    runner: BlockRunner | None
    layout: Layout
    cost: Callable[[TokenLayout, int | None], BlockCost]
    dim: int = 0
    hidden_dtype: Callable[[torch.dtype], torch.dtype] = lambda dtype: dtype
    limit: str = ""
    options_limit: Callable[[Mapping[str, Any]], str] = lambda options: ""
    layout_limit: Callable[[TokenLayout], str] = lambda layout: ""
    full_reason: Callable[[Mapping[str, Any]], str] = lambda conditions: ""
    attention_layout: Layout | None = None


def describe(diffusion_model: Any, cast: Cast) -> Architecture:
    """Return the architecture of a diffusion model; a box where its blocks are not known.

    Raises UnsupportedModel with the reason for one that must be computed in full.
    """
    model = unwrap(diffusion_model)
    refuse(model)
    found = _describe(model, cast)
    attention_layout = found.layout if found.runner is not None else partial(guessed_layout, model)
    return replace(found, full_reason=partial(full_reason, model), attention_layout=attention_layout)


def _describe(model: Any, cast: Cast) -> Architecture:
    for family in _families():
        try:
            found = family.describe_model(model, cast)
        except UnsupportedBlocks as reason:
            return describe_box(reason.family or family.FAMILY, f"no token steps: {reason}")
        if found is not None:
            return found
    name = class_name(model)
    return describe_box(family_word(name), f"token steps need an adapter for {name}")


def with_token_steps() -> str:
    """Return the names of the models that have a file here, for users."""
    return ", ".join(family.SUPPORTED for family in _families())


def describe_box(family: str, limit: str = "") -> Architecture:
    """Return the architecture of a model whose blocks are not known: whole steps can be skipped, tokens cannot.

    Each position of the latent counts as a token.
    """
    return Architecture(
        family=family,
        blocks=(),
        runner=None,
        layout=lambda shape, conditions: TokenLayout(video=prod(shape[2:])),
        cost=lambda layout, context: WHOLE_STEPS,
        limit=limit,
    )


def family_word(class_name: str) -> str:
    """Return the family of a model that has no file here, by its class: schedules found for it are for it alone."""
    word = re.sub("[^a-z0-9_-]", "-", class_name.lower())[:40]
    return f"{word}-model" if word in ("", ANY_FAMILY) else word


@cache
def _families() -> tuple[Any, ...]:
    """Return the modules of this folder that describe a family of models.

    Such a module has `FAMILY`, the word of its schedules, `SUPPORTED`, the models' names, and `describe_model(model,
    cast)`, which returns None for models of other families and raises UnsupportedBlocks for those of its own whose
    blocks it cannot run for selected tokens.
    """
    package = __name__.rpartition(".")[0]
    names = sorted(module.name for module in iter_modules(import_module(package).__path__))
    modules = (import_module(f"{package}.{name}") for name in names)
    return tuple(module for module in modules if hasattr(module, "describe_model"))
