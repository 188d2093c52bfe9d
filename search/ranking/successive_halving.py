"""Successive halving: candidates are run on a few cases, the better half on more, the best on all."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.effort import Effort
from ..evaluation.evaluator import Evaluation, Evaluator, Limits
from ..problem.candidate import Genome
from .standings import Standings

FIRST_CASES = 3
SLACK_DB = 12.0  # a run is aborted once a step's loss is this much above the best candidate's largest step loss
MIN_COST = 0.05  # of a candidate's run, in dense runs, for estimates
MAX_WIDTH = 14  # candidates of a round
SCREENING_SHARE = 0.5  # of the remaining effort, for a screening at most


class SuccessiveHalving:
    """Rounds of runs for one budget. cases: those that count in the end; end: dense-run equivalents not to exceed."""

    def __init__(
        self, evaluator: Evaluator, standings: Standings, cases: Sequence[int], effort: Effort, end: float
    ) -> None:
        self._evaluator, self._standings, self._cases = evaluator, standings, list(cases)
        self._effort, self._end = effort, end

    @property
    def remaining(self) -> float:
        """Dense-run equivalents left."""
        return self._end - self._effort.cost

    @property
    def has_room(self) -> bool:
        """Tell whether one more candidate can be run on all cases."""
        return self._effort.cost + self._standings.budget * len(self._cases) <= self._end + 1e-6

    def width(self, share: float) -> int:
        """Return the number of candidates to begin a round with, for this share of the remaining effort."""
        first = min(FIRST_CASES, len(self._cases))
        # All on the first cases, half of them on as many again, and about a quarter on all cases.
        runs_each = 1.5 * first + len(self._cases) / 4.0
        return int(min(MAX_WIDTH, max(1, self.remaining * share / self._run_cost / runs_each)))

    def run(self, genomes: Sequence[Genome]) -> bool:
        """Run a round and add its evaluations to the standings; tell whether another round can follow."""
        running = [genome for genome in dict.fromkeys(genomes) if self._standings.fits_budget(genome)]
        if not running:
            return False
        count = min(FIRST_CASES, len(self._cases))
        while running:
            affordable = int(self.remaining / self._run_cost / count + 1e-6)
            running = running[: max(0, affordable)]
            evaluated = self._evaluator.evaluate(running, self._cases[:count], self._limits(count))
            self._standings.add_partial(evaluated)
            if count == len(self._cases):
                self._standings.add(evaluated)
                return bool(running)
            running = self._better_half(evaluated)
            count = min(len(self._cases), 2 * count)
        return self.has_room

    def screen(self, genomes: Sequence[Genome]) -> dict[Genome, Evaluation]:
        """Run candidates on one case within SCREENING_SHARE; return the evaluations of those that may win."""
        affordable = [genome for genome in dict.fromkeys(genomes) if self._standings.fits_budget(genome)]
        affordable = affordable[: max(0, int(self.remaining * SCREENING_SHARE / self._run_cost))]
        evaluated = self._evaluator.evaluate(affordable, self._cases[:1], self._limits(1))
        self._standings.add_partial(evaluated)
        return {each.genome: each for each in evaluated if self._standings.may_win(each)}

    @property
    def _run_cost(self) -> float:
        return max(self._standings.budget, MIN_COST)

    def _better_half(self, evaluated: Sequence[Evaluation]) -> list[Genome]:
        hopeful = [each for each in evaluated if self._standings.may_win(each)]
        hopeful.sort(key=self._standings.expected_gain, reverse=True)
        return [each.genome for each in hopeful[: max(1, (len(evaluated) + 1) // 2)]]

    def _limits(self, count: int) -> Limits | None:
        best = self._standings.best
        return None if best is None else self._evaluator.limits(best.genome, self._cases[:count], SLACK_DB)
