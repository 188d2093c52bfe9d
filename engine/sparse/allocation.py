"""Divides the density among the heads of a model: where the same tiles save more error, there they are spent."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

SHARES = (0.5, 0.75, 1.0, 1.4, 2.0)  # of the mean density, among which a head's is chosen
ROUNDS = 12  # of the search for the price of density, between two that differ by a factor of 4
MAX_STEPS = 64  # up, for single heads, after that: with many heads little is left
MIN_PRICE, MAX_PRICE = 1e-9, 1e3  # in squared relative error per unit of density


@dataclass
class _Layer:
    """Errors of a layer's heads at several densities, `[L, H]`, and the step and densities of its newest choice."""

    densities: Tensor
    errors: Tensor
    step: int = -1
    spent: float = 0.0


class Allocation:
    """Errors of all heads of a run at several densities, as far as they are known. density: the mean to keep."""

    def __init__(self, density: float):
        self.density = density
        self._layers: dict[Hashable, _Layer] = {}
        self._price = 1.0
        self._lock = threading.Lock()

    def of(self, layer: Hashable, step: int) -> LayerAllocation:
        return LayerAllocation(self, layer, step)

    def levels(self) -> list[float]:
        """Return the densities that a head may get."""
        return sorted({min(1.0, share * self.density) for share in SHARES})

    def choose(self, layer: Hashable, step: int, densities: Tensor, errors: Tensor, mean: float) -> list[int]:
        """Return the number of the level that each head of a layer gets: the least sum of errors at the mean density.

        densities: of the levels, as tiles allow, `[L]`; errors: squared, in parts of the layer's output, `[L, H]`;
        mean: the mean density, as tiles allow. What layers have been given at this step is spent; those that follow are
        expected to be as they were measured last.
        """
        own = _Layer(densities.double().cpu().unsqueeze(-1).expand_as(errors), errors.double().cpu(), step)
        with self._lock:
            self._layers.pop(layer, None)
            spent = [other for other in self._layers.values() if other.step == step]
            open_ = [other for other in self._layers.values() if other.step != step] + [own]
            heads = sum(each.errors.shape[1] for each in (*spent, *open_))
            left = mean * heads - sum(other.spent for other in spent)
            all_densities = torch.cat([each.densities for each in open_], 1)
            all_errors = torch.cat([each.errors for each in open_], 1)
            levels, self._price = _cheapest(all_densities, all_errors, left / all_errors.shape[1], self._price)
            chosen = levels[all_errors.shape[1] - errors.shape[1] :]
            own.spent = float(_picked(own.densities, chosen).sum())
            self._layers[layer] = own
        return chosen.tolist()


def _cheapest(densities: Tensor, errors: Tensor, mean: float, price: float) -> tuple[Tensor, float]:
    """Return the level of each head `[H]` with the least sum of errors at a mean density, and the price of density.

    densities, errors: `[L, H]`; price: a first guess. At one price all heads' choices fit together; what the mean then
    leaves goes to single heads, the greatest gain first.
    """

    def is_dear(price: float) -> bool:
        return float(_picked(densities, _levels(densities, errors, price)).mean()) <= mean + 1e-9

    low, high = price, price
    while high < MAX_PRICE and not is_dear(high):
        high *= 4.0
    while low > MIN_PRICE and is_dear(low):
        low /= 4.0
    for _ in range(ROUNDS):
        price = (low * high) ** 0.5
        low, high = (low, price) if is_dear(price) else (price, high)
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
    return levels, high


def _levels(densities: Tensor, errors: Tensor, price: float) -> Tensor:
    return (errors + price * densities).argmin(0)


def _picked(values: Tensor, levels: Tensor) -> Tensor:
    return values.gather(0, levels.unsqueeze(0))[0]


@dataclass(frozen=True)
class LayerAllocation:
    """The allocation as one layer sees it."""

    whole: Allocation
    layer: Hashable
    step: int

    def levels(self) -> list[float]:
        """Return the densities that a head may get."""
        return self.whole.levels()

    def choose(self, densities: Tensor, errors: Tensor, mean: float) -> list[int]:
        """Return the number of the level that each head gets; see `Allocation.choose`."""
        return self.whole.choose(self.layer, self.step, densities, errors, mean)
