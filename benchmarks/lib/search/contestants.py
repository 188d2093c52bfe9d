"""Contestants of `search.py`: methods to find a schedule for a budget. Import after the host was started.

Each yields its schedules and their cost in dense-run equivalents; `search.py` runs these on prompts and seeds that no
contestant has seen.
"""

from __future__ import annotations

import random
import time
import unittest.mock
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from astraea.schedules import Schedule, bundled_schedules
from astraea.search.driver import Search
from astraea.search.evaluation.evaluator import Evaluation, Evaluator
from astraea.search.evaluation.run_log import RunLog
from astraea.search.methods import evolution
from astraea.search.methods.paper import PaperSearch
from astraea.search.problem.candidate import Genome
from astraea.search.problem.config import SearchConfig
from astraea.search.proposals.initial import (
    PARTIAL_PATTERN,
    bundled_candidate,
    periodic_candidate,
    step_skipping_candidates,
    uniform_candidate,
)

TOKEN_PATTERNS = (PARTIAL_PATTERN, (0.0, 0.5), (0.1, 0.3, 0.8))
PAPER_CASES = 4  # prompts of the paper's fitness


@dataclass(frozen=True)
class Offer:
    """A schedule found with so much work (`spent`), and its mean PSNR in dB on the calibration cases.

    clock: the duration of the work, in dense runs.
    """

    contestant: str
    seed: int
    spent: float
    genome: Genome
    psnr: float | None
    seconds: float | None = None
    speedup: float | None = None
    clock: float | None = None


def genome_of(schedule: Schedule) -> Genome:
    return Genome(schedule.budgets, schedule.forecast, schedule.mode)


def baseline(setting: Any, budget: float) -> Genome:
    """The hand-made bundled schedule."""
    hand_made = [each for each in bundled_schedules() if str(each.provenance.get("found", "")).startswith("by hand")]
    return bundled_candidate(setting, budget, hand_made)


def from_baseline() -> Any:
    """Makes searches start from hand-made schedules: the other bundled ones were searched on these same models."""
    return unittest.mock.patch.object(evolution, "bundled_candidate", baseline)


def baselines(setting: Any, budget: float) -> dict[str, Genome]:
    """The bundled schedule and all hand-made ones at a budget, by name; step-skipping ones also with held steps."""
    found = {"bundled": bundled_candidate(setting, budget), "uniform": uniform_candidate(setting, budget)}
    for number, genome in enumerate(
        dict.fromkeys([*step_skipping_candidates(setting, budget), baseline(setting, budget)])
    ):
        found[f"whole steps {number + 1}"] = genome
        found[f"whole steps {number + 1}, held"] = replace(genome, mode="hold")
    rhythms = dict.fromkeys(periodic_candidate(setting, budget, pattern) for pattern in TOKEN_PATTERNS)
    for number, genome in enumerate(genome for genome in rhythms if genome.has_partial_steps):
        found[f"token rhythm {number + 1}"] = genome
    return found


def ours(bench: Any, budget: float, seed: int, effort: float) -> Iterator[Offer]:
    """The node's search, from hand-made schedules."""
    began = time.monotonic()
    with from_baseline():
        search = Search(bench, RunLog(), SearchConfig(budgets=(budget,), effort=effort, seed=seed))
        result = search.run()
    if result.best:
        best = result.best[0]
        name = f"ours, effort {effort:g}"
        clock = (time.monotonic() - began) / result.dense_seconds
        yield Offer(name, seed, result.cost, genome_of(best.schedule), best.psnr, best.seconds, best.speedup, clock)


def papers(bench: Any, budget: float, seed: int, efforts: list[float], run_logs: Path) -> Iterator[Offer]:
    """The best schedules of the paper's search at each effort, dense runs included. Runs are kept in `run_logs`."""
    evaluator = Evaluator(bench, RunLog(run_logs / f"{bench.setting.identity}-paper.jsonl", bench.setting.identity))
    cases = range(min(PAPER_CASES, bench.setting.cases))
    search = PaperSearch(evaluator, cases, budget, random.Random(seed))
    offers: list[Offer] = []
    pending = sorted(efforts)

    def note(best: Evaluation) -> None:
        while pending and evaluator.cost >= pending[0]:
            contestant = f"paper's search, effort {pending.pop(0):g}"
            offers.append(Offer(contestant, seed, evaluator.cost, best.genome, best.score))
            print(f"  {contestant}, seed {seed}: {best.score:.2f} dB", flush=True)

    for case in cases:
        evaluator.dense(case)
    search.run(max(efforts) + 1e-6 - evaluator.cost, note)
    yield from offers
