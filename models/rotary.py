"""Rotary positions of selected tokens, from the matrices that the host made for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from ..engine.blocks.selection import Selection

Made = TypeVar("Made")


def once_a_call(selection: Selection, name: str, source: Any, make: Callable[[], Made]) -> Made:
    """Return what `make` makes of `source`, made once for all blocks of a call, which share source and selection."""
    kept = selection.derived.get(name)
    if kept is None or kept[0] is not source:
        with selection.allocating():
            kept = selection.derived[name] = (source, make())
    return kept[1]


def selected_positions(freqs: Tensor, selection: Selection) -> Tensor:
    """Return rows of `freqs [1 or B, N, 1, D/2, 2, 2]` for the selected tokens: `[B, M, 1, D/2, 2, 2]`.

    Computed once for all blocks of a call, which share positions and selection.
    """

    def select() -> Tensor:
        if freqs.shape[0] == 1:
            return freqs[0].index_select(0, selection.indices.flatten()).unflatten(0, selection.indices.shape)
        return freqs.flatten(0, 1).index_select(0, selection.flat).unflatten(0, selection.indices.shape)

    return once_a_call(selection, "selected positions", freqs, select)


def rotate(x: Tensor, freqs: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of `x [B, M, H, D]` by `freqs [.., M, 1, D/2, 2, 2]`, in freqs' precision."""
    pairs = x.to(freqs.dtype).unflatten(-1, (-1, 2))
    first, second = pairs[..., 0].unsqueeze(-1), pairs[..., 1].unsqueeze(-1)
    turned = freqs[..., 0] * first
    return turned.addcmul_(freqs[..., 1], second).flatten(-2).to(x.dtype)
