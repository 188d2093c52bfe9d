"""Divides the density among the heads of a model: where the same tiles save more error, there they are spent."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

SHARES = (0.5, 0.75, 1.0, 1.4, 2.0)  # of the mean density, among which a head's is chosen
ROUNDS = 40  # of the search for the price of density
MAX_STEPS = 64  # up, for single heads, after that: with many heads little is left
MIN_PRICE, MAX_PRICE = 1e-9, 1e3  # in squared relative error per unit of density


class Allocation:
    """Errors of all heads of a run at several densities, as far as they are known. density: the mean to keep."""

    def __init__(self, density: float):
        self.density = density
        self._curves: dict[Hashable, tuple[Tensor, Tensor]] = {}
        self._lock = threading.Lock()

    def of(self, layer: Hashable) -> LayerAllocation:
        return LayerAllocation(self, layer)

    def levels(self) -> list[float]:
        """Return the densities that a head may get."""
        return sorted({min(1.0, share * self.density) for share in SHARES})

    def choose(self, layer: Hashable, densities: Tensor, errors: Tensor, mean: float) -> list[int]:
        """Return the number of the level that each head of a layer gets: the least sum of errors at the mean density.

        densities: of the levels, as tiles allow, `[L]`; errors: squared, in parts of the layer's output, `[L, H]`;
        mean: the mean density, as tiles allow. The layers that were measured before have their part in it.
        """
        with self._lock:
            self._curves.pop(layer, None)  # the newest layer comes last
            self._curves[layer] = densities.double().cpu(), errors.double().cpu()
            all_densities = torch.cat([d.unsqueeze(-1).expand_as(e) for d, e in self._curves.values()], 1)
            all_errors = torch.cat([e for _, e in self._curves.values()], 1)
        own = slice(all_errors.shape[1] - errors.shape[1], None)
        return _cheapest(all_densities, all_errors, mean)[own].tolist()


def _cheapest(densities: Tensor, errors: Tensor, mean: float) -> Tensor:
    """Return the level of each head `[H]` with the least sum of errors at a mean density. densities, errors: `[L, H]`.

    At one price of density all heads' choices fit together; what the mean then leaves goes to single heads, the
    greatest gain first.
    """
    low, high = MIN_PRICE, MAX_PRICE
    for _ in range(ROUNDS):
        price = (low * high) ** 0.5
        if float(_picked(densities, _levels(densities, errors, price)).mean()) > mean + 1e-9:
            low = price
        else:
            high = price
    levels = _levels(densities, errors, high)
    for _ in range(MAX_STEPS):
        left = mean * errors.shape[1] - float(_picked(densities, levels).sum())
        cost = densities - _picked(densities, levels)
        gain = (_picked(errors, levels) - errors) / cost
        gain = gain.masked_fill((cost <= 0.0) | (cost > left + 1e-9), 0.0)
        if float(gain.max()) <= 0.0:
            break
        level, head = divmod(int(gain.argmax()), gain.shape[1])
        levels[head] = level
    return levels


def _levels(densities: Tensor, errors: Tensor, price: float) -> Tensor:
    return (errors + price * densities).argmin(0)


def _picked(values: Tensor, levels: Tensor) -> Tensor:
    return values.gather(0, levels.unsqueeze(0))[0]


@dataclass(frozen=True)
class LayerAllocation:
    """The allocation as one layer sees it."""

    whole: Allocation
    layer: Hashable

    def levels(self) -> list[float]:
        """Return the densities that a head may get."""
        return self.whole.levels()

    def choose(self, densities: Tensor, errors: Tensor, mean: float) -> list[int]:
        """Return the number of the level that each head gets; see `Allocation.choose`."""
        return self.whole.choose(self.layer, densities, errors, mean)
