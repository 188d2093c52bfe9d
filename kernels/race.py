"""Sparse attention against the dense attention that it replaces: timed once on a device for calls of a kind."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import autotune_cache
from .autotune import time_call
from .problem import Problem

ROUNDS = 3
MAX_RATIO = 0.95  # of the dense time: sparse attention that takes longer is not worth its error
DENSITY_UNIT = 0.05  # densities that share a timing


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the same call, sparse with its selection, and dense."""

    sparse: float
    dense: float

    @property
    def is_worth_it(self) -> bool:
        return self.sparse <= MAX_RATIO * self.dense

    @property
    def reason(self) -> str:
        """Why sparse attention is not used."""
        return (
            f"dense attention is as fast on this device, {self.dense:.3g} ms against {self.sparse:.3g} ms "
            "for the lists of tiles"
        )


_known: dict[str, Timing] = {}
_lock = threading.Lock()


@torch.inference_mode()
def race(
    problem: Problem, density: float, sparse: Callable[[], object], dense: Callable[[], object], name: str = ""
) -> Timing:
    """Return the times of such calls: known, saved on disk, or measured in turn on this call.

    density: mean of the heads'; what differs little shares a timing. name: of the dense attention.
    """
    rounded = max(1, round(density / DENSITY_UNIT)) * DENSITY_UNIT
    key = autotune_cache.key(problem, f"density {rounded:.2f} against {name or 'dense'}")
    with _lock:
        if key not in _known:
            _known[key] = _saved(key) or _measured(key, problem, sparse, dense)
        return _known[key]


def _saved(key: str) -> Timing | None:
    entry = autotune_cache.read(autotune_cache.RACES).get(key, {})
    sparse, dense = entry.get("sparse"), entry.get("dense")
    if isinstance(sparse, float) and isinstance(dense, float) and sparse > 0 and dense > 0:
        return Timing(sparse, dense)
    return None


def _measured(key: str, problem: Problem, sparse: Callable[[], object], dense: Callable[[], object]) -> Timing:
    sparse(), dense()  # warms up: memory, compilation
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for is_sparse, work in ((True, sparse), (False, dense)):
            times[is_sparse].append(time_call(work, problem.device))
    timing = Timing(round(min(times[True]), 4), round(min(times[False]), 4))
    autotune_cache.write(key, {"sparse": timing.sparse, "dense": timing.dense}, autotune_cache.RACES)
    logging.info(
        f"Astraea: sparse attention over {problem.keys} tokens takes {timing.sparse:.3g} ms, "
        f"dense {timing.dense:.3g} ms"
    )
    return timing
