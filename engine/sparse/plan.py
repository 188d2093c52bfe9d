"""The plan of sparse attention: what the user asked for, frozen, without tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import BudgetError
from ...kernels.key_tiles import KEY_TILE, QUERY_TILE

AUTO, ROUTING, RAINFUSION = "auto", "routing", "rainfusion"
CHOICES = (AUTO, ROUTING, RAINFUSION)
DROP, MEAN = "drop", "mean"
RESTS = (DROP, MEAN)
OWN, CORE = "own", "comfy-kitchen"
KERNELS = (AUTO, OWN, CORE)
MIN_DENSITY = 0.05
FROM_NOISE = 0.9  # noise level from which on a run begins a clip and does not go on with one
DEFAULT_DENSITY, DEFAULT_DENSE_START, DEFAULT_LIMIT, DEFAULT_MIN_TOKENS = 0.3, 0.1, 0.35, 8000


@dataclass(frozen=True)
class SparsePlan:
    """The plan for the attention of a run.

    density: share of the key tiles that a query tile attends to, 1: all, nothing is changed; with choice `auto` the
    mean over the heads. dense_start: share of the steps, from the first, that stay dense; at least the first step does
    in a run that begins from noise. choice: how a head's tiles are found. rest: `drop` tiles that are left out, or take
    them together as one `mean` term. limit: a head whose measured error is greater attends to more tiles; 0: no limit.
    min_tokens: calls with fewer keys stay dense. kernel: `own` skips the comparison of times with dense attention.
    dense_layers: the first ones, whose errors all others would build on. query_tile, key_tile: sizes of tiles; see
    `KeyTiles`.
    """

    density: float = DEFAULT_DENSITY
    dense_start: float = DEFAULT_DENSE_START
    choice: str = AUTO
    rest: str = DROP
    limit: float = DEFAULT_LIMIT
    min_tokens: int = DEFAULT_MIN_TOKENS
    kernel: str = AUTO
    dense_layers: int = 1
    query_tile: int = QUERY_TILE
    key_tile: int = KEY_TILE

    def __post_init__(self) -> None:
        for name, least in (("density", MIN_DENSITY), ("dense_start", 0.0), ("limit", 0.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= 1.0):
                raise BudgetError(f"The {name} {value} of sparse attention is outside {least:g}...1.")
        for name, known in (("choice", CHOICES), ("rest", RESTS), ("kernel", KERNELS)):
            if getattr(self, name) not in known:
                raise BudgetError(f"The {name} {getattr(self, name)!r} is unknown; choose one of {', '.join(known)}.")
        if self.min_tokens < 0:
            raise BudgetError(f"The min_tokens {self.min_tokens} of sparse attention are negative.")

    def __deepcopy__(self, memo: dict) -> SparsePlan:
        return self  # immutable; hosts deep-copy model options

    @property
    def spreads(self) -> bool:
        """Tell whether the density is a mean, divided among the heads by what it is worth to them."""
        return self.choice == AUTO

    @property
    def is_dense(self) -> bool:
        return self.density >= 1.0

    def dense_steps(self, steps: int, level: float = 1.0) -> int:
        """Return how many steps of a run, from its first, stay dense. level: the noise level that it begins with.

        A run that goes on from another, as the second of two experts or a second pass, need not have any.
        """
        return min(steps, max(1 if level >= FROM_NOISE else 0, round(self.dense_start * steps)))
