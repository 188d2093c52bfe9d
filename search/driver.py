"""A whole search: dense runs, then every budget in turn, and at any time what has been found so far."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from .candidate import Genome
from .evaluation.evaluator import Evaluation, Evaluator
from .evaluation.replay import Replay
from .evaluation.run_log import RunLog
from .evaluation.step_cost import StepCost
from .evolution import Evolution
from .problem import Bench, Outcome
from .proxy import MAX_CASES, MIN_CASES, RUNS_A_PAIR, ProxySearch
from .result import FoundSchedule, HistoryPoint, Progress, Result

MIN_CASES_FULL = 2
DENSE_SHARE = 4.0  # one of so many dense-run equivalents makes a dense run
DENSE_SHARE_BESIDE_SMALL = 7.5  # where small clips tell most, at most
SMALL_SHARE = 0.7  # of what dense runs leave, at most
TRIED = 3.5  # schedules that are run on all cases for each budget at least, the drawn one included
TRIED_SHARE = 0.55  # of the effort that this may take
MAX_PROXY_COST = 0.5  # of a dense run; dearer ones are no help


def ignore(progress: Progress) -> None:
    """Watches nothing."""


class Search:
    """Finds schedules for some budgets with about `effort` dense-run equivalents, the dense runs included.

    The same seed, setting and effort find the same, also where the memo has some or all of it already. Of steps in part
    that holds by the same `floor`: what one takes at least, in full steps (see `prices`); None has it measured.
    small_clips: whether steps are placed on small clips first, where the bench has any and the effort pays for enough.
    watch: called after every run; exceptions of it and of the bench pass through `run`, `result` tells what there is.
    """

    def __init__(
        self,
        bench: Bench,
        memo: RunLog,
        *,
        budgets: Sequence[float],
        effort: float,
        seed: int,
        floor: float | None = None,
        small_clips: bool = True,
        watch: Callable[[Progress], None] = ignore,
    ):
        self.judge = Evaluator(bench, memo, self._after_run)
        self.setting, self.budgets, self.effort, self.seed = bench.setting, list(dict.fromkeys(budgets)), effort, seed
        self._prices = StepCost(floor) if floor is not None else None
        self._watch, self._began = watch, time.monotonic()
        self._small = self._small_clips(bench, memo) if small_clips else None
        large = self._large_beside_small if self._small is not None else round(effort / DENSE_SHARE)
        self._cases = list(range(min(self.setting.cases, max(MIN_CASES_FULL, large))))
        self._evolutions: dict[float, Evolution] = {}
        self._history: list[HistoryPoint] = []
        self._noted: dict[float, Evaluation] = {}  # the bests that the history tells of
        self._replay: Replay | None = None
        self._stage, self._finished, self._recalled = "", False, 0

    def run(self) -> Result:
        """Search to the end."""
        self._began = time.monotonic()
        recordings = []
        for number, case in enumerate(self._cases, start=1):
            self._say(f"dense run {number} of {len(self._cases)}")
            recordings.append(self.judge.dense(case))
        if self.setting.weights is not None:
            self._replay = Replay(self.setting, recordings)
        for number, budget in enumerate(self.budgets):
            # Runs cost as much as their budget: every budget gets as many of them.
            share = budget / sum(self.budgets[number:])
            self._stage = f"budget {budget:g}"
            random_ = random.Random(f"{self.seed} {budget:.4f}")
            evolution = Evolution(self.judge, self._replay, self._cases, budget, random_, self._prices, self._small)
            self._evolutions[budget] = evolution
            evolution.run((self.effort - self.spent) * share)
            self._note_best()
        self._finished = True
        self._say("done")
        return self.result()

    def result(self) -> Result:
        """What has been found so far."""
        found = {budget: self._found_for(evolution) for budget, evolution in self._evolutions.items()}
        everything = [each for group in found.values() for each in group]
        best = [self._best_of(self._evolutions[budget], group) for budget, group in found.items() if group]
        drawn = [[f for f in group if f.baselines] for group in found.values()]
        return Result(
            best=tuple(best),
            front=_front(everything),
            baselines=tuple(group[0] for group in drawn if group),
            tried=tuple((f.seconds, f.loss) for f in everything),
            history=tuple(self._history),
            sensitivity=self._sensitivity(),
            dense_seconds=self.judge.seconds.of_dense(self.setting.evaluations),
            spent=self.spent,
            small_clips=self._small.pairs if self._small is not None else 0,
            finished=self._finished,
        )

    @property
    def cache_hits(self) -> int:
        """Runs that were taken from the memo."""
        return sum(judge.cache_hits for judge in self._judges)

    @property
    def runs(self) -> int:
        """Candidate runs, those on small clips included."""
        return sum(len(judge.outcomes) for judge in self._judges)

    @property
    def spent(self) -> float:
        """Dense-run equivalents."""
        return sum(judge.spent for judge in self._judges)

    @property
    def _judges(self) -> list[Evaluator]:
        return [self.judge] if self._small is None else [self.judge, self._small.judge]

    def _small_clips(self, bench: Bench, memo: RunLog) -> ProxySearch | None:
        """As many as the effort pays for; None where that is too few, or a small clip is no cheaper."""
        few = bench.smaller(MIN_CASES)
        if few is None or few.setting.share > MAX_PROXY_COST:
            return None
        dense = min(self.setting.cases, max(MIN_CASES_FULL, self._large_beside_small))
        left = self.effort - dense
        a_pair = few.setting.share * (1.0 + RUNS_A_PAIR * sum(self.budgets))
        pairs = min(MAX_CASES, int(min(SMALL_SHARE * left, left - TRIED * dense * sum(self.budgets)) / a_pair))
        clips = bench.smaller(pairs) if pairs >= MIN_CASES else None
        return None if clips is None else ProxySearch(Evaluator(clips, memo, self._after_small_run, mark="small "))

    @property
    def _large_beside_small(self) -> int:
        """Dense runs in full size: several budgets, of which each needs runs on all cases, make do with fewer."""
        for_all = int(TRIED_SHARE * self.effort / (1.0 + TRIED * sum(self.budgets)))
        return min(round(self.effort / DENSE_SHARE_BESIDE_SMALL), for_all)

    def _found_for(self, evolution: Evolution) -> list[FoundSchedule]:
        """Candidates judged on all cases within the budget; before there are any, the one judged on most."""
        verdicts = [v for v in evolution.judged.values() if evolution.fits_budget(v.genome)]
        if not verdicts:
            partly = [v for v in evolution.partly.values() if not v.given_up and evolution.fits_budget(v.genome)]
            verdicts = sorted(partly, key=lambda v: (len(v.losses), v.score))[-1:]
        return [self._found(evolution, verdict) for verdict in verdicts]

    def _best_of(self, evolution: Evolution, found: Sequence[FoundSchedule]) -> FoundSchedule:
        if evolution.best is None:
            return found[0]
        return self._found(evolution, evolution.best)

    def _found(self, evolution: Evolution, verdict: Evaluation) -> FoundSchedule:
        seconds = self.judge.seconds
        spent = seconds.of_run(verdict.genome, self.setting.evaluations)
        dense = seconds.of_dense(self.setting.evaluations)
        return FoundSchedule(
            schedule=verdict.genome.schedule(self.setting.sigmas, family=self.setting.family),
            budget=evolution.budget,
            loss=10.0 ** (-verdict.score / 10.0),
            losses=verdict.losses,
            seconds=spent,
            speedup=dense / spent if spent > 0.0 else 1.0,
            baselines=verdict.genome in evolution.baselines,
            floor=evolution.prices.floor,
        )

    def _sensitivity(self) -> tuple[float, ...]:
        if self._replay is None or not self._evolutions:
            return ()
        bests = [e.best.genome for e in self._evolutions.values() if e.best is not None]
        whole = [genome for genome in bests if genome.whole]
        return self._replay.sensitivity(whole[0] if whole else Genome((1.0,) * self.setting.steps))

    def _after_run(self, genome: Genome, case: int, outcome: Outcome) -> None:
        made, self._recalled = self.judge.cache_hits == self._recalled, self.judge.cache_hits
        evolution = list(self._evolutions.values())[-1]
        improved = evolution.take(genome) and made
        self._note_best()
        self._say(self._stage, improved)

    def _after_small_run(self, genome: Genome, case: int, outcome: Outcome) -> None:
        self._say(f"{self._stage}, small clips")

    def _note_best(self) -> None:
        """Write down new bests."""
        for budget, evolution in self._evolutions.items():
            if evolution.best is None:
                continue
            if self._noted.get(budget) is not evolution.best:
                self._noted[budget] = evolution.best
                self._history.append(HistoryPoint(self.spent, budget, 10.0 ** (-evolution.best.score / 10.0)))

    def _say(self, stage: str, improved: bool = False) -> None:
        best = [e for e in self._evolutions.values() if e.best is not None]
        found = tuple(self._found(e, e.best) for e in best if e.best is not None)
        self._watch(Progress(stage, self.spent, self.effort, self._seconds_left(), found, improved))

    def _seconds_left(self) -> float | None:
        """By what the runs made here took; nothing is known while all come from the memo."""
        made = sum(judge.fresh_cost for judge in self._judges)
        if not made:
            return None
        pace = (time.monotonic() - self._began) / made
        return max(0.0, self.effort - self.spent) * pace


def _front(found: Sequence[FoundSchedule]) -> tuple[FoundSchedule, ...]:
    """Those that no other one beats in both time and loss, fastest first."""
    front: list[FoundSchedule] = []
    for each in sorted(found, key=lambda f: (f.seconds, f.loss)):
        if not front or each.loss < front[-1].loss:
            front.append(each)
    return tuple(front)
