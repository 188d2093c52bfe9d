"""Setting of a measurement: a clip, the ways to accelerate it, and its division among GPUs. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..scaling.model import Clip, Network, Steps
from .cluster import Division

HEAD_DIM = 128


@dataclass(frozen=True)
class Setting:
    """A run of the sampler. itemsize: bytes of a number in the hidden states; cfg: above 1 with two conditionings."""

    network: Network
    clip: Clip
    steps: int
    cfg: float
    itemsize: int

    @property
    def rows(self) -> int:
        return 2 if self.cfg > 1.0 else 1

    @property
    def heads(self) -> int:
        return self.network.dim // HEAD_DIM


@dataclass(frozen=True)
class Way:
    """A way to sample: everything, whole steps or token steps; budget: share of the tokens that are computed."""

    name: str
    label: str
    budget: float = 1.0
    by_tokens: bool = False

    def steps(self, steps: int) -> Steps:
        """Return how many of these steps the budget pays for."""
        if self.by_tokens:
            between = max(steps - 2, 1)
            return Steps(2, token=between, share=max(0.0, self.budget * steps - 2.0) / between)
        full = int(self.budget * steps + 1e-9)
        return Steps(full, skipped=steps - full)


DENSE = Way("dense", "dense")
WAYS = (
    DENSE,
    Way("whole 0.5", "whole steps, 0.5", 0.5),
    Way("whole 0.3", "whole steps, 0.3", 0.3),
    Way("tokens 0.5", "token steps, 0.5", 0.5, by_tokens=True),
)
LABELS = {way.name: way.label for way in WAYS}


def ways_of(division: Division) -> tuple[Way, ...]:
    """Return the ways to measure: with cfg parallelism there are no token steps."""
    return tuple(way for way in WAYS if division.cfg == 1 or not way.by_tokens)


def in_words(gpus: int) -> str:
    return f"{gpus} GPU{'s' if gpus != 1 else ''}"


def counts(named: Sequence[int]) -> list[int]:
    """Return the numbers of GPUs to measure: those of a list, or all that divide the only one."""
    if len(named) > 1:
        return sorted(set(named))
    return [number for number in range(1, named[0] + 1) if named[0] % number == 0]


def division_of(gpus: int, setting: Setting, *, ring: int = 1, cfg: int = 1, attention: str) -> Division:
    """Return how so many GPUs divide a run: ring and cfg as given, all else by Ulysses; one GPU divides nothing.

    Raises ValueError where that is not possible, with the reason.
    """
    if gpus == 1:
        return Division(attention=attention)
    ulysses, rest = divmod(gpus, ring * cfg)
    if rest or not ulysses:
        raise ValueError(f"they cannot be divided into ring {ring} × cfg {cfg}")
    if setting.heads % ulysses:
        raise ValueError(f"Ulysses {ulysses} does not divide the {setting.heads} heads of {setting.network.name}")
    if cfg > setting.rows:
        raise ValueError(f"cfg {cfg} needs {cfg} conditionings, and at --cfg {setting.cfg:g} there is one")
    return Division(ulysses, ring, cfg, attention)
