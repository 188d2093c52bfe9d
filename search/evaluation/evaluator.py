"""Runs candidates, remembers what came out and counts what it cost, in dense-run equivalents.

What a run cost is counted by the tokens it computed, not by the clock, so that a search decides alike on every machine
and when it is taken up again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...engine.report import FULL, REUSE
from ..candidate import Genome
from ..problem import Bench, Job, Outcome, Recording
from .run_log import RunLog, key_of
from .step_time import StepSeconds

MIN_LOSS = 1e-20
NOT_FINITE = 1.0  # loss that counts for a run that was not finite, or was given up


@dataclass(frozen=True)
class Evaluation:
    """A candidate's losses on the cases it was run on, in their order; inf where it was given up."""

    genome: Genome
    losses: tuple[float, ...]

    @property
    def given_up(self) -> bool:
        return math.inf in self.losses

    @property
    def score(self) -> float:
        """Mean PSNR in dB over the cases: higher is better."""
        return mean_psnr(self.losses)


def mean_psnr(losses: Sequence[float]) -> float:
    """Mean of −10 lg loss; a loss that is not finite counts as that of an empty picture."""
    bounded = [min(NOT_FINITE, max(MIN_LOSS, loss)) for loss in losses]
    return -10.0 * math.fsum(math.log10(loss) for loss in bounded) / len(bounded)


class Evaluator:
    """The bench with a memo and a ledger.

    spent: dense-run equivalents of this search, whether made now or found in the memo; cache_hits: how many of its runs
    were found there; fresh_cost: what was made now. told: called after each run with its genome and outcome.
    mark: what sets its runs in the memo apart from those of the full size.
    """

    def __init__(
        self, bench: Bench, memo: RunLog, told: Callable[[Genome, int, Outcome], None] | None = None, mark: str = ""
    ):
        self.bench, self.memo, self.setting, self._mark = bench, memo, bench.setting, mark
        self.seconds = StepSeconds()
        self.spent, self.cache_hits, self.fresh_cost = 0.0, 0, 0.0
        self.outcomes: dict[tuple[int, Genome], Outcome] = {}
        self._told = told
        self._dense: set[int] = set()

    def dense(self, case: int) -> Recording:
        """The dense recording; counted once."""
        recording = self.bench.dense(case)
        if case not in self._dense:
            self._dense.add(case)
            self.spent += self.setting.share
            self.fresh_cost += self.setting.share
            self.seconds.add_steps([1.0] * self.setting.steps, recording.seconds)
        return recording

    def verdicts(
        self, genomes: Sequence[Genome], cases: Sequence[int], limits: dict[int, tuple[float, ...]] | None = None
    ) -> list[Evaluation]:
        """Run candidates on cases. limits: per case, the most loss after each step, from which a run is given up."""
        self.make([(case, genome) for genome in dict.fromkeys(genomes) for case in cases], limits)
        return [Evaluation(g, tuple(self.outcomes[case, g].loss for case in cases)) for g in genomes]

    def make(self, wanted: Sequence[tuple[int, Genome]], limits: dict[int, tuple[float, ...]] | None = None) -> None:
        """Have the outcomes of these candidates on these cases."""
        jobs: list[tuple[int, Genome]] = []
        for pair in dict.fromkeys(wanted):
            limit = limits.get(pair[0]) if limits else None
            if pair in self.outcomes and self._holds(self.outcomes[pair], limit):
                continue
            remembered = self.memo.get(self._key(pair))
            if remembered is not None and self._holds(remembered, limit):
                self.cache_hits += 1
                self._take(pair, self._under(limit, pair[1], remembered))
            else:
                jobs.append(pair)
        self._run(jobs, limits)

    def count_as_run(self, genome: Genome, cases: Sequence[int], like: int) -> None:
        """Count runs that need not be made at what the one on case `like` cost; those made before were counted then."""
        cost = self._equivalents(genome, self.outcomes[like, genome])
        self.spent += cost * sum((case, genome) not in self.outcomes for case in cases)

    def _run(self, pairs: Sequence[tuple[int, Genome]], limits: dict[int, tuple[float, ...]] | None) -> None:
        sigmas = self.setting.sigmas
        jobs = [Job(case, genome.schedule(sigmas), limits.get(case) if limits else None) for case, genome in pairs]
        for pair, outcome in zip(pairs, self.bench.measure(jobs), strict=False):
            self.memo.put(self._key(pair), outcome)
            self.fresh_cost += self._equivalents(pair[1], outcome)
            self._take(pair, outcome)

    def _take(self, pair: tuple[int, Genome], outcome: Outcome) -> None:
        self.outcomes[pair] = outcome
        self.spent += self._equivalents(pair[1], outcome)
        self.seconds.add(pair[1], outcome)
        if self._told is not None:
            self._told(pair[1], pair[0], outcome)

    def _key(self, pair: tuple[int, Genome]) -> str:
        return self._mark + key_of(pair[0], pair[1].schedule(self.setting.sigmas))

    def _equivalents(self, genome: Genome, outcome: Outcome) -> float:
        """What a run cost; one that was given up by its steps' kinds, so that `_under` comes to the same."""
        evaluations = self.setting.evaluations
        computed = outcome.computed if self._is_whole(outcome) else _computed(genome, outcome.kinds, evaluations)
        return self.setting.share * computed / sum(evaluations)

    def _is_whole(self, outcome: Outcome) -> bool:
        """Whether a run was made to its end; it may also have been given up at its last step."""
        to_the_last = outcome.steps >= self.setting.steps
        return to_the_last and (math.isfinite(outcome.loss) or not math.isfinite(outcome.losses[-1]))

    def _holds(self, outcome: Outcome, limit: tuple[float, ...] | None) -> bool:
        """Whether an outcome says what is asked: one that was given up does where it would be given up again."""
        return self._is_whole(outcome) or _steps_within(outcome, limit) < outcome.steps

    def _under(self, limit: tuple[float, ...] | None, genome: Genome, outcome: Outcome) -> Outcome:
        """An outcome as it would be under a limit, so that a search goes the same way whatever the memo has already."""
        steps = _steps_within(outcome, limit) + 1
        if steps > outcome.steps:
            return outcome
        kinds = outcome.kinds[:steps]
        return Outcome(
            loss=math.inf,
            steps=steps,
            losses=outcome.losses[:steps],
            computed=_computed(genome, kinds, self.setting.evaluations),
            seconds=outcome.seconds[:steps],
            kinds=kinds,
            responses=outcome.responses[:steps],
        )

    def limits(self, best: Genome, cases: Sequence[int], slack_db: float) -> dict[int, tuple[float, ...]]:
        """Where to give up: a candidate may at each step be worse than the best so far is at any by `slack_db`."""
        found = {}
        for case in cases:
            outcome = self.outcomes.get((case, best))
            if outcome is not None and self._is_whole(outcome):
                most = max((*outcome.losses, MIN_LOSS)) * 10.0 ** (slack_db / 10.0)
                found[case] = (most,) * self.setting.steps
        return found


def _steps_within(outcome: Outcome, limit: tuple[float, ...] | None) -> int:
    """How many steps a run makes before one that is worse than the limit."""
    pairs = enumerate(zip(outcome.losses, limit or (), strict=False))
    return next((step for step, (loss, most) in pairs if not loss <= most), outcome.steps)


def _computed(genome: Genome, kinds: Sequence[str], evaluations: Sequence[int]) -> float:
    """Full steps' worth of tokens that the first steps, of these kinds, computed."""
    shares = {FULL: 1.0, REUSE: 0.0}
    steps = zip(kinds, genome.budgets, evaluations, strict=False)
    return math.fsum(calls * shares.get(kind, budget) for kind, budget, calls in steps)
