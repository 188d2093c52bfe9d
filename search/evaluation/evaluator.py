"""Evaluates candidates: runs them, caches outcomes and counts their cost in dense-run equivalents.

The cost of a run is counted in computed tokens, not by the clock, so that a search makes the same choices on every
machine and when it is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...engine.report import FULL, REUSE
from ..problem.candidate import Genome
from ..problem.losses import MIN_LOSS, mean_psnr
from ..problem.runner import Job, Outcome, Recording, Runner
from .run_log import RunLog, key_of
from .step_time import StepSeconds

Limits = Mapping[int, tuple[float, ...]]  # by case, the largest loss after each step
# Called after each run with its candidate, case and outcome, and True if the outcome was in the run log.
OnOutcome = Callable[[Genome, int, Outcome, bool], None]


@dataclass(frozen=True)
class Evaluation:
    """Losses of a candidate, one per case that it was run on; infinite where the run was aborted."""

    genome: Genome
    losses: tuple[float, ...]

    @property
    def aborted(self) -> bool:
        return math.inf in self.losses

    @property
    def score(self) -> float:
        """Mean PSNR in dB over the cases: higher is better."""
        return mean_psnr(self.losses)


class Evaluator:
    """A runner with a run log and an account of costs.

    cost: dense-run equivalents of all outcomes used, new or cached; cache_hits: outcomes taken from the run log;
    fresh_cost: cost of the new ones. key_prefix: distinguishes keys of proxy cases in the run log.
    """

    def __init__(self, runner: Runner, run_log: RunLog, on_outcome: OnOutcome | None = None, key_prefix: str = ""):
        self.runner, self.run_log, self.setting = runner, run_log, runner.setting
        self.step_seconds = StepSeconds()
        self.cost, self.cache_hits, self.fresh_cost = 0.0, 0, 0.0
        self.outcomes: dict[tuple[int, Genome], Outcome] = {}
        self._on_outcome, self._key_prefix = on_outcome, key_prefix
        self._dense: set[int] = set()

    def dense(self, case: int) -> Recording:
        """Return the recording of a case's dense run, the cost of which is counted once."""
        recording = self.runner.dense(case)
        if case not in self._dense:
            self._dense.add(case)
            self.cost += self.setting.relative_cost
            self.fresh_cost += self.setting.relative_cost
            self.step_seconds.add_steps([1.0] * self.setting.steps, recording.seconds)
        return recording

    def evaluate(
        self, genomes: Sequence[Genome], cases: Sequence[int], limits: Limits | None = None
    ) -> list[Evaluation]:
        """Run candidates on cases and return their evaluations in the order given."""
        self.run([(case, genome) for genome in dict.fromkeys(genomes) for case in cases], limits)
        return [Evaluation(g, tuple(self.outcomes[case, g].loss for case in cases)) for g in genomes]

    def run(self, wanted: Sequence[tuple[int, Genome]], limits: Limits | None = None) -> None:
        """Obtain the outcomes of these cases and candidates, from the run log or by new runs."""
        missing: list[tuple[int, Genome]] = []
        for pair in dict.fromkeys(wanted):
            limit = limits.get(pair[0]) if limits else None
            if pair in self.outcomes and self._is_valid(self.outcomes[pair], limit):
                continue
            cached = self.run_log.get(self._key(pair))
            if cached is not None and self._is_valid(cached, limit):
                self.cache_hits += 1
                self._add(pair, self._abort_at(limit, pair[1], cached), is_cached=True)
            else:
                missing.append(pair)
        self._run_missing(missing, limits)

    def count_as_run(self, genome: Genome, cases: Sequence[int], like: int) -> None:
        """Count the cost of runs on these cases without making them; runs made before are counted already.

        like: a case that the candidate was run on; each of the other runs is taken to cost the same.
        """
        cost = self._cost_of(genome, self.outcomes[like, genome])
        self.cost += cost * sum((case, genome) not in self.outcomes for case in cases)

    def limits(self, best: Genome, cases: Sequence[int], slack_db: float) -> Limits:
        """Return limits for candidates: at every step of a case, the best's largest step loss there plus `slack_db`."""
        found = {}
        for case in cases:
            outcome = self.outcomes.get((case, best))
            if outcome is not None and self._is_complete(outcome):
                largest = max((*outcome.losses, MIN_LOSS)) * 10.0 ** (slack_db / 10.0)
                found[case] = (largest,) * self.setting.steps
        return found

    def _run_missing(self, pairs: Sequence[tuple[int, Genome]], limits: Limits | None) -> None:
        sigmas = self.setting.sigmas
        jobs = [Job(case, genome.schedule(sigmas), limits.get(case) if limits else None) for case, genome in pairs]
        for pair, outcome in zip(pairs, self.runner.measure(jobs), strict=False):
            self.run_log.put(self._key(pair), outcome)
            self.fresh_cost += self._cost_of(pair[1], outcome)
            self._add(pair, outcome, is_cached=False)

    def _add(self, pair: tuple[int, Genome], outcome: Outcome, is_cached: bool) -> None:
        case, genome = pair
        self.outcomes[pair] = outcome
        self.cost += self._cost_of(genome, outcome)
        self.step_seconds.add(genome, outcome)
        if self._on_outcome is not None:
            self._on_outcome(genome, case, outcome, is_cached)

    def _key(self, pair: tuple[int, Genome]) -> str:
        return self._key_prefix + key_of(pair[0], pair[1].schedule(self.setting.sigmas))

    def _cost_of(self, genome: Genome, outcome: Outcome) -> float:
        """Return the cost of a run in dense runs; of an aborted one, by the kinds of its steps, as in `_abort_at`."""
        calls = self.setting.calls_per_step
        computed = outcome.computed if self._is_complete(outcome) else _computed(genome, outcome.kinds, calls)
        return self.setting.relative_cost * computed / sum(calls)

    def _is_complete(self, outcome: Outcome) -> bool:
        """Tell whether a run was not aborted, which may happen even at its last step."""
        made_all = outcome.steps >= self.setting.steps
        return made_all and (math.isfinite(outcome.loss) or not math.isfinite(outcome.losses[-1]))

    def _is_valid(self, outcome: Outcome, limit: tuple[float, ...] | None) -> bool:
        """Tell whether an outcome answers a job with this limit: it is complete, or would be aborted again."""
        return self._is_complete(outcome) or _count_steps_within(outcome, limit) < outcome.steps

    def _abort_at(self, limit: tuple[float, ...] | None, genome: Genome, outcome: Outcome) -> Outcome:
        """Return the outcome as it would be under this limit, so that a search is the same with cached runs."""
        steps = _count_steps_within(outcome, limit) + 1
        if steps > outcome.steps:
            return outcome
        kinds = outcome.kinds[:steps]
        return Outcome(
            loss=math.inf,
            steps=steps,
            losses=outcome.losses[:steps],
            computed=_computed(genome, kinds, self.setting.calls_per_step),
            seconds=outcome.seconds[:steps],
            kinds=kinds,
            responses=outcome.responses[:steps],
        )


def _count_steps_within(outcome: Outcome, limit: tuple[float, ...] | None) -> int:
    """Count the steps before the first that exceeds the limit."""
    pairs = enumerate(zip(outcome.losses, limit or (), strict=False))
    return next((step for step, (loss, largest) in pairs if not loss <= largest), outcome.steps)


def _computed(genome: Genome, kinds: Sequence[str], calls_per_step: Sequence[int]) -> float:
    """Return the work of a run's first steps in full model calls, given their kinds."""
    shares = {FULL: 1.0, REUSE: 0.0}
    steps = zip(kinds, genome.budgets, calls_per_step, strict=False)
    return math.fsum(calls * shares.get(kind, budget) for kind, budget, calls in steps)
