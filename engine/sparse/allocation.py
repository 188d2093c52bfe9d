"""Divides the density among the heads of a model: where the same tiles save more error, there they are spent."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

SHARES = (0.5, 0.75, 1.0, 1.5, 2.0)  # of the mean density, among which a head's is chosen
ROUNDS = 40  # of the search for the price of density
MIN_PRICE, MAX_PRICE = 1e-9, 1e3  # in squared relative error per unit of density


class Allocation:
    """What is known in a run of the heads' errors at several densities. density: their mean at most."""

    def __init__(self, density: float):
        self.density = density
        self._curves: dict[Hashable, tuple[Tensor, Tensor]] = {}
        self._lock = threading.Lock()

    def of(self, layer: Hashable) -> LayerAllocation:
        return LayerAllocation(self, layer)

    def levels(self) -> list[float]:
        """Return the densities that a head may get."""
        return sorted({min(1.0, share * self.density) for share in SHARES})

    def choose(self, layer: Hashable, densities: Tensor, errors: Tensor) -> list[int]:
        """Return the number of the level that each head of a layer gets: the least sum of errors at the mean density.

        densities: of the levels, as tiles allow, `[L]`; errors: squared, in parts of the layer's output, `[L, H]`. The
        layers that were measured before have their part in the mean.
        """
        with self._lock:
            self._curves[layer] = densities.double().cpu(), errors.double().cpu()
            all_densities = torch.cat([d.unsqueeze(-1).expand_as(e) for d, e in self._curves.values()], 1)
            all_errors = torch.cat([e for _, e in self._curves.values()], 1)
        low, high = MIN_PRICE, MAX_PRICE
        for _ in range(ROUNDS):
            price = (low * high) ** 0.5
            level = (all_errors + price * all_densities).argmin(0, keepdim=True)
            if float(all_densities.gather(0, level).mean()) > self.density + 1e-9:
                low = price
            else:
                high = price
        own_densities, own_errors = self._curves[layer]
        return (own_errors + high * own_densities.unsqueeze(-1)).argmin(0).tolist()


@dataclass(frozen=True)
class LayerAllocation:
    """The allocation as one layer sees it."""

    whole: Allocation
    layer: Hashable

    def levels(self) -> list[float]:
        """Return the densities that a head may get."""
        return self.whole.levels()

    def choose(self, densities: Tensor, errors: Tensor) -> list[int]:
        """Return the number of the level that each head gets; see `Allocation.choose`."""
        return self.whole.choose(self.layer, densities, errors)
