"""Rotary positions of selected tokens, from the matrices that the host made for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
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
    """Return rows of `freqs [1 or B, N, 1 or H, D/2, 2, 2]` for the selected tokens: `[B, M, 1 or H, D/2, 2, 2]`."""

    def select() -> Tensor:
        if freqs.shape[0] == 1:
            return freqs[0].index_select(0, selection.indices.flatten()).unflatten(0, selection.indices.shape)
        return freqs.flatten(0, 1).index_select(0, selection.flat).unflatten(0, selection.indices.shape)

    return once_a_call(selection, "selected positions", freqs, select)


def rotations(cos: Tensor, sin: Tensor) -> Tensor:
    """Return rotation matrices `[.., D/2, 2, 2]` for `cos` and `sin [.., D/2]`."""
    return torch.stack((cos, -sin, sin, cos), -1).unflatten(-1, (2, 2))


def rotate(x: Tensor, freqs: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of `x [B, M, H, D]` by `freqs [.., M, 1, D/2, 2, 2]`, in freqs' precision."""
    pairs = x.to(freqs.dtype).unflatten(-1, (-1, 2))
    first, second = pairs[..., 0].unsqueeze(-1), pairs[..., 1].unsqueeze(-1)
    turned = freqs[..., 0] * first
    return turned.addcmul_(freqs[..., 1], second).flatten(-2).to(x.dtype)


def half_turns(freqs: Tensor, selection: Selection) -> tuple[Tensor, Tensor]:
    """Return `freqs [1 or B, N, 1, P, 2, 2]` of all tokens and of the selected ones, as `rotate_halves_` takes them."""

    def make() -> tuple[Tensor, Tensor]:
        return _planes(freqs), _planes(selected_positions(freqs, selection))

    return once_a_call(selection, "halves", freqs, make)


def _planes(freqs: Tensor) -> Tensor:
    """Return rotation matrices `[.., P, 2, 2]` as four contiguous planes `[4, .., P]`."""
    return freqs.flatten(-2).movedim(-1, 0).contiguous()


def rotate_halves_(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the pairs of channels i and i + P of `x [B, M, H, D]`, P ≤ D/2, in place and in the precision of `turns`.

    turns: `[4, .., M, 1, P]`, the elements of each pair's rotation matrix, row by row.
    """
    pairs = turns.shape[-1]
    first, second = x[..., :pairs].to(turns.dtype), x[..., pairs : 2 * pairs].to(turns.dtype)
    turned = (turns[0] * first).addcmul_(turns[1], second)
    x[..., pairs : 2 * pairs] = (turns[2] * first).addcmul_(turns[3], second)
    x[..., :pairs] = turned
    return x


def selected_rows(name: str, table: Tensor, selection: Selection) -> Tensor:
    """Return rows of a table `[N, …]` for the selected tokens, `[B, M, …]`, computed once for all blocks of a call."""

    def select() -> Tensor:
        return table.index_select(0, selection.indices.flatten()).unflatten(0, selection.indices.shape)

    return once_a_call(selection, name, table, select)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of `x [B, M, H, D]` by angles whose cos and sin are `[.., M, H, D/2]`."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = (first * cos).sub_(second * sin), (first * sin).add_(second * cos)
    return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)
