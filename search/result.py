"""What a search has found, as plain data: from it come the schedules that are saved, the plots and the texts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..schedules import Schedule


@dataclass(frozen=True)
class FoundSchedule:
    """One schedule with what it promises.

    budget: the mean budget it was searched for; loss: mean over the cases (see `problem`); losses: of each case.
    seconds: predicted for the model calls of one run; speedup: those of a dense run over them.
    baselines: whether it is one that the search began with.
    floor: what its search took a step in part to cost at least, in full steps.
    """

    schedule: Schedule
    budget: float
    loss: float
    losses: tuple[float, ...]
    seconds: float
    speedup: float
    baselines: bool
    floor: float = 0.0

    @property
    def psnr(self) -> float:
        """dB of the mean loss."""
        return -10.0 * math.log10(max(self.loss, 1e-20))


@dataclass(frozen=True)
class HistoryPoint:
    """After `spent` dense-run equivalents there was a new best for this budget; its loss, which may be larger."""

    spent: float
    budget: float
    loss: float


@dataclass(frozen=True)
class Result:
    """What there is when a search ends.

    best: one per budget asked for, in their order; a budget that nothing was found for is left out. It is the one
        expected to hold on other prompts (`merit`), which is not always the one that did best on the cases.

    front: schedules of all budgets that no other one beats in both time and loss, fastest first.
    baselines: per budget what one has without a search, the bundled schedule.
    tried: `(predicted seconds, loss)` of every candidate judged on all cases.
    sensitivity: per step, the loss if that step alone is reused, by replaying the dense runs; () where unknown.
    spent: dense-run equivalents, those of the dense runs included. finished: False where it was interrupted.
    small_clips: pairs of them that steps were placed on first.
    """

    best: tuple[FoundSchedule, ...]
    front: tuple[FoundSchedule, ...]
    baselines: tuple[FoundSchedule, ...]
    tried: tuple[tuple[float, float], ...]
    history: tuple[HistoryPoint, ...]
    sensitivity: tuple[float, ...]
    dense_seconds: float
    spent: float
    finished: bool
    small_clips: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a search is. planned: dense-run equivalents it may spend; seconds_left: None before it is known.

    best: what has been found so far, one per budget where there is one; improved: whether the run just made is a new
    best, whose latents the bench still holds.
    """

    stage: str
    spent: float
    planned: float
    seconds_left: float | None
    best: tuple[FoundSchedule, ...]
    improved: bool = False
