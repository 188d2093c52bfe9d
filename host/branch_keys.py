"""Which rows of a model call belong to which conditioning, from what the host says about the call."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor

from ..engine.blocks import RowGroup


def row_groups(x: Tensor, transformer_options: dict[str, Any]) -> tuple[RowGroup, ...]:
    """One group per conditioning in the call; none when the host does not say (the call then runs in full).

    Keys hold the conditioning's id and role, the latent's size, the context window, the block replacements in force
    and the device: rows that agree in all of these continue one another from step to step.
    """
    ids, roles = transformer_options.get("uuids"), transformer_options.get("cond_or_uncond")
    if not ids or not roles or len(ids) != len(roles) or x.shape[0] % len(ids):
        return ()
    rows = x.shape[0] // len(ids)
    place = (tuple(x.shape[2:]), _window(transformer_options), _replacements(transformer_options), str(x.device))
    seen: Counter = Counter()
    groups = []
    for number, (identity, role) in enumerate(zip(ids, roles, strict=True)):
        repeat = seen[identity, role]
        seen[identity, role] += 1
        groups.append(RowGroup((identity, role, repeat, *place), slice(number * rows, (number + 1) * rows)))
    return tuple(groups)


def _window(transformer_options: dict[str, Any]) -> tuple[int, ...] | None:
    indices = getattr(transformer_options.get("context_window"), "index_list", None)
    return tuple(indices) if indices is not None else None


def _replacements(transformer_options: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    hooks = block_replacements(transformer_options)
    return tuple(sorted((str(place), id(hook)) for place, hook in hooks.items()))


def block_replacements(transformer_options: dict[str, Any]) -> dict:
    """The hooks that other nodes have put around transformer blocks."""
    return transformer_options.get("patches_replace", {}).get("dit", {})
