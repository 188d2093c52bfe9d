"""Results of a search as plain data: source of the saved schedules, the plots and the texts."""

from __future__ import annotations

from dataclasses import dataclass

from ...schedules import Schedule
from .losses import psnr_of


@dataclass(frozen=True)
class FoundSchedule:
    """A schedule with the result expected of it.

    budget: mean budget that it was searched for; losses: by case (see `problem`); loss: that of their mean PSNR.
    seconds: predicted for the model calls of one run; speedup: seconds of a dense run over these.
    is_baseline: what `auto` does without a search; evenly placed steps where that exceeds the budget.
    partial_step_overhead: least cost of a partial step in full steps, by which the search compared costs with budgets.
    """

    schedule: Schedule
    budget: float
    loss: float
    losses: tuple[float, ...]
    seconds: float
    speedup: float
    is_baseline: bool
    partial_step_overhead: float = 0.0

    @property
    def psnr(self) -> float:
        """Mean PSNR in dB."""
        return psnr_of(self.loss)


@dataclass(frozen=True)
class HistoryPoint:
    """A new best schedule of a budget. cost: dense-run equivalents spent; loss: its loss, which may be larger."""

    cost: float
    budget: float
    loss: float


@dataclass(frozen=True)
class SearchResult:
    """Everything known when a search ends.

    best: one per budget, in the order asked for; a budget without any is left out. It has the largest expected gain on
        other prompts (`posterior_gain`), not always the smallest loss on the cases.
    front: Pareto front of all budgets in time and loss, fastest first.
    baselines: one per budget, if it was run on all cases.
    tried: `(predicted seconds, loss)` of the candidates that the searches show, see `BudgetSearch.results`.
    sensitivity: per step, the loss if only that step is skipped, by replay of the dense runs; () if unknown.
    cost: dense-run equivalents spent, dense runs included. finished: False if interrupted.
    proxy_cases: number of small clips that candidates were run on first.
    """

    best: tuple[FoundSchedule, ...]
    front: tuple[FoundSchedule, ...]
    baselines: tuple[FoundSchedule, ...]
    tried: tuple[tuple[float, float], ...]
    history: tuple[HistoryPoint, ...]
    sensitivity: tuple[float, ...]
    dense_seconds: float
    cost: float
    finished: bool
    proxy_cases: int = 0

    def baseline_for(self, budget: float) -> FoundSchedule | None:
        """Return the baseline of a budget; None if it has none."""
        return next((each for each in self.baselines if each.budget == budget), None)


@dataclass(frozen=True)
class Progress:
    """Progress of a search. effort: dense-run equivalents it may spend; seconds_left: None if not known yet.

    best: best schedules so far, at most one per budget; improved: the newest run has made a new best, whose latents the
    runner still holds.
    """

    stage: str
    cost: float
    effort: float
    seconds_left: float | None
    best: tuple[FoundSchedule, ...]
    improved: bool = False
