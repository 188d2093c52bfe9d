"""Search methods by name, and what the driver asks of one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from ..evaluation.effort import Effort
from ..evaluation.evaluator import Evaluation, Evaluator, OnOutcome
from ..evaluation.replay import Replay
from ..evaluation.run_log import RunLog
from ..evaluation.step_cost import StepCost
from ..problem.candidate import Genome
from ..problem.config import ASTRAEA, PAPER, SearchConfig
from ..problem.runner import Runner
from .astraea import AstraeaMethod
from .paper import PaperMethod


class BudgetSearch(Protocol):
    """The search for one budget. baselines: candidates that it begins with, the usual one first; () if none."""

    @property
    def baselines(self) -> tuple[Genome, ...]: ...

    @property
    def best(self) -> Evaluation | None: ...

    @property
    def step_cost(self) -> StepCost: ...

    def run(self, allowance: float) -> None:
        """Spend about this many dense-run equivalents."""
        ...

    def results(self) -> list[Evaluation]:
        """Return the candidates to show so far."""
        ...

    def on_outcome(self, genome: Genome) -> bool:
        """Note that a candidate has been run; tell whether it is a new best."""
        ...


class Method(Protocol):
    """A way to search. cases: those to make dense runs of; evaluators: all, that of full-size cases first."""

    @property
    def evaluator(self) -> Evaluator: ...

    @property
    def cases(self) -> Sequence[int]: ...

    @property
    def evaluators(self) -> tuple[Evaluator, ...]: ...

    @property
    def proxy_cases(self) -> int: ...

    def search_for(self, budget: float, rng: random.Random, effort: Effort, replay: Replay | None) -> BudgetSearch: ...


# Called with the runner, its run log, the options, and callbacks for outcomes of full-size and of proxy cases.
METHODS: dict[str, Callable[[Runner, RunLog, SearchConfig, OnOutcome, OnOutcome], Method]] = {
    ASTRAEA: AstraeaMethod,
    PAPER: PaperMethod,
}
