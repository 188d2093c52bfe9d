"""Rotary positions of selected tokens, from the matrices that the host made for all of them."""

from __future__ import annotations

from torch import Tensor, cat, stack

from ..engine.blocks.selection import Selection


def selected_positions(freqs: Tensor, selection: Selection) -> Tensor:
    """Return rows of `freqs [1 or B, N, 1, D/2, 2, 2]` for the selected tokens: `[B, M, 1, D/2, 2, 2]`.

    Computed once for all blocks of a call, which share positions and selection.
    """
    derived = selection.derived
    if derived.get("freqs_source") is not freqs:
        if freqs.shape[0] == 1:
            chosen = freqs[0].index_select(0, selection.indices.flatten()).unflatten(0, selection.indices.shape)
        else:
            chosen = freqs.flatten(0, 1).index_select(0, selection.flat).unflatten(0, selection.indices.shape)
        derived["freqs_source"], derived["freqs"] = freqs, chosen
    return derived["freqs"]


def rotate(x: Tensor, freqs: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of `x [B, M, H, D]` by `freqs [.., M, 1, D/2, 2, 2]`, in freqs' precision."""
    pairs = x.to(freqs.dtype).unflatten(-1, (-1, 2))
    first, second = pairs[..., 0].unsqueeze(-1), pairs[..., 1].unsqueeze(-1)
    turned = freqs[..., 0] * first
    return turned.addcmul_(freqs[..., 1], second).flatten(-2).to(x.dtype)


def rotate_halves(x: Tensor, freqs: Tensor) -> Tensor:
    """Rotate channels i and i + D/2 of `x [B, M, H, D]` by `freqs [.., M, 1, D/2, 2, 2]`, in freqs' precision."""
    first, second = x.to(freqs.dtype).chunk(2, dim=-1)
    turned = (freqs[..., row, 0] * first for row in range(2))
    return cat([each.addcmul_(freqs[..., row, 1], second) for row, each in enumerate(turned)], dim=-1).to(x.dtype)


def selected_rows(name: str, table: Tensor, selection: Selection) -> Tensor:
    """Return rows of a table `[N, …]` for the selected tokens, `[B, M, …]`; computed once for all blocks of a call."""
    derived = selection.derived
    if derived.get(f"{name}_source") is not table:
        chosen = table.index_select(0, selection.indices.flatten()).unflatten(0, selection.indices.shape)
        derived[f"{name}_source"], derived[name] = table, chosen
    return derived[name]


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of `x [B, M, H, D]` by angles whose cos and sin are `[.., M, H, D/2]`."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = (first * cos).sub_(second * sin), (first * sin).add_(second * cos)
    return stack(turned, dim=-1).flatten(-2).to(x.dtype)
