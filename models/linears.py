"""Linear layers that compute several things at once, of which a token step needs some of every token, others of few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from ..engine.blocks.selection import Selection

# Layers are the host's and known by their attributes only, hence Any.


class Slices(Protocol):
    """Access to parts of the host's Linears, wherever it keeps their weights and whatever it adds to them."""

    def possible(self, linear: Any) -> bool:
        """Return whether a layer computes nothing but x Wᵀ + b, so that parts of its output can be computed alone."""

    def compute(self, linear: Any, wanted: Sequence[tuple[Tensor, slice]]) -> list[Tensor]:
        """Return for each (x, channels) these output channels of the layer for x `[.., in]`; weights load once."""


def project(
    slices: Slices | None, linear: Any, x: Tensor, selection: Selection | None, all_tokens: slice, *chosen: slice
) -> list[Tensor]:
    """Return output channels of a layer: `all_tokens` of x `[B, N, in]`, then each of `chosen` of the selected tokens.

    selection: None for all; slices: None to compute whole layers and take parts of the output.
    """
    if selection is not None and slices is not None and slices.possible(linear):
        rows = selection.gather(x)
        return slices.compute(linear, [(x, all_tokens), *((rows, channels) for channels in chosen)])
    y = linear(x)
    parts = [y[..., channels] for channels in chosen]
    return [y[..., all_tokens], *(parts if selection is None else map(selection.gather, parts))]
