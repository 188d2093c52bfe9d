"""Sparse attention against the dense attention that it replaces: timed once on a device for calls of a kind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import autotune_cache
from .autotune import TIMING, time_call
from .problem import Problem

Work = Callable[[], object]
ROUNDS = 3
MAX_RATIO = 0.95  # of the dense time: sparse attention that takes longer is not worth its error
DENSITY_UNIT = 0.05  # densities that share a timing


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the same call, sparse with its selection, and dense."""

    sparse: float
    dense: float

    def at(self, ratio: float) -> Timing:
        """Return the timing at another density, in parts of the one that was timed."""
        return Timing(self.sparse * ratio, self.dense)

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


@torch.inference_mode()
def race(
    problem: Problem,
    density: float,
    *,
    sparse: Work,
    dense: Work,
    name: str = "",
    now_and_then: tuple[Work, int] | None = None,
) -> Timing:
    """Return the times of such calls: known, saved on disk, or measured in turn on this call.

    density: mean of the heads'; what differs little shares a timing. name: of the dense attention. now_and_then: work
    that a sparse call takes one time in a number of times.
    """
    rounded = max(1, round(density / DENSITY_UNIT)) * DENSITY_UNIT
    often = "" if now_and_then is None else f", choice every {now_and_then[1]}"
    key = autotune_cache.key(problem, f"density {rounded:.2f}{often} against {name or 'dense'}")
    with TIMING:
        if key not in _known:
            _known[key] = _saved(key) or _measured(key, problem, sparse, dense, now_and_then)
        return _known[key]


def _saved(key: str) -> Timing | None:
    entry = autotune_cache.read(autotune_cache.RACES).get(key, {})
    sparse, dense = entry.get("sparse"), entry.get("dense")
    if isinstance(sparse, float) and isinstance(dense, float) and sparse > 0 and dense > 0:
        return Timing(sparse, dense)
    return None


def _measured(key: str, problem: Problem, sparse: Work, dense: Work, now_and_then: tuple[Work, int] | None) -> Timing:
    works = {"sparse": sparse, "dense": dense} | ({} if now_and_then is None else {"choice": now_and_then[0]})
    times: dict[str, list[float]] = {each: [] for each in works}
    for work in works.values():  # warms up: memory, compilation
        work()
    for _ in range(ROUNDS):
        for each, work in works.items():
            times[each].append(time_call(work, problem.device))
    best = {each: min(found) for each, found in times.items()}
    choice = 0.0 if now_and_then is None else best["choice"] / now_and_then[1]
    timing = Timing(round(best["sparse"] + choice, 4), round(best["dense"], 4))
    autotune_cache.write(key, {"sparse": timing.sparse, "dense": timing.dense}, autotune_cache.RACES)
    logging.info(
        f"Astraea: sparse attention over {problem.keys} tokens takes {timing.sparse:.3g} ms, "
        f"dense {timing.dense:.3g} ms"
    )
    return timing
