"""The contestants of `search.py`: ways to come to a schedule for a budget. Import after the host was started.

Each yields what it would hand over and after how many dense-run equivalents of work; `search.py` runs that on prompts
and seeds that no contestant has seen.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import statistics
import tempfile
import time
import unittest.mock
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from environment import read_json
from faster_cpu import bfloat16_products, first_steps_remembered

from astraea.schedules import bundled_folder, load
from astraea.search import evolution
from astraea.search.candidate import Genome, genome_of, moved
from astraea.search.driver import Search
from astraea.search.evaluation.evaluator import Evaluation, Evaluator, mean_psnr
from astraea.search.evaluation.replay import Replay
from astraea.search.evaluation.run_log import RunLog
from astraea.search.paper_search import PaperSearch
from astraea.search.proposals.dynamic_programming import cheapest
from astraea.search.proposals.initial import (
    TOKEN_PATTERN,
    bundled_candidate,
    step_skipping_candidates,
    token_candidate,
    uniform_candidate,
)
from astraea.search.proposals.priors import initial_forecasts
from astraea.search.proposals.sensitivity import allotted, probe
from astraea.search.proposals.step_placements import step_placements

TOKEN_PATTERNS = (TOKEN_PATTERN, (0.0, 0.5), (0.1, 0.3, 0.8))
PAPER_CASES = 4  # prompts that the paper's fitness is taken over


@dataclass(frozen=True)
class Offer:
    """A schedule on offer: after so much work, with this loss (mean PSNR in dB) on the calibration cases.

    clock: what the work took by the clock, in dense runs; made: see `where_made`.
    """

    contestant: str
    seed: int
    spent: float
    genome: Genome
    psnr: float | None
    seconds: float | None = None
    speedup: float | None = None
    clock: float | None = None
    made: str | None = None


def drawn_seed(setting: Any, budget: float) -> Genome:
    """The bundled schedule of those that were drawn by hand."""
    with tempfile.TemporaryDirectory() as name:
        for path in bundled_folder().glob("*.json"):
            if str(load(path).provenance.get("found", "")).startswith("by hand"):
                shutil.copy(path, name)
        return bundled_candidate(setting, budget, [Path(name)])


def from_drawn() -> Any:
    """Searches begin with what is bundled; here with what was drawn, as the rest was searched on these very models."""
    return unittest.mock.patch.object(evolution, "bundled_seed", drawn_seed)


def baselines(setting: Any, budget: float) -> dict[str, Genome]:
    """What the pack comes with, and everything one would draw by hand at a budget, by name: as shipped, and held."""
    found = {"bundled": bundled_candidate(setting, budget), "uniform": uniform_candidate(setting, budget)}
    for number, genome in enumerate(
        dict.fromkeys([*step_skipping_candidates(setting, budget), drawn_seed(setting, budget)])
    ):
        found[f"whole steps {number + 1}"] = genome
        found[f"whole steps {number + 1}, held"] = replace(genome, mode="hold")
    rhythms = dict.fromkeys(token_candidate(setting, budget, pattern) for pattern in TOKEN_PATTERNS)
    for number, genome in enumerate(genome for genome in rhythms if not genome.whole):
        found[f"token rhythm {number + 1}"] = genome
    return found


def by_programming(bench: Any, budget: float) -> Iterator[Offer]:
    """The seeds of dynamic programming and of the sensitivity probe alone, from two dense runs."""
    judge = Evaluator(bench, RunLog())
    replay = Replay(bench.setting, [judge.dense(case) for case in (0, 1)])
    bundled = drawn_seed(bench.setting, budget)
    judge.verdicts([bundled], [0])
    replay.learn(list(judge.outcomes.values()))
    programmed = cheapest(lambda genome: fmean(replay.losses(genome)), bundled)
    if programmed is not None:
        yield Offer("gaps by dynamic programming", 0, judge.spent, programmed, None)
    found = probe(judge, 0, replay)
    if found is not None:
        yield Offer("budgets by sensitivity", 0, judge.spent, allotted(found, bench.setting, budget), None)


def ours(bench: Any, budget: float, seed: int, effort: float) -> Iterator[Offer]:
    """The node's search, from what is drawn by hand."""
    began = time.monotonic()
    with from_drawn():
        search = Search(bench, RunLog(), budgets=[budget], effort=effort, seed=seed)
        result = search.run()
    if result.best:
        best = result.best[0]
        name = f"ours, effort {effort:g}"
        clock = (time.monotonic() - began) / result.dense_seconds
        yield Offer(name, seed, result.spent, genome_of(best.schedule), best.psnr, best.seconds, best.speedup, clock)


def papers_memo(setting: Any, folder: Path, made: str, cell: str = "") -> RunLog:
    """What the paper's search has run so far. made: see `papers`; cell: its budget and seed, where each has a file."""
    name = setting.identity + "-paper" + ("" if made == "fp32" else f"-{made}") + cell
    return RunLog(folder / f"{name}.jsonl", setting.identity)


def made_here(memo: RunLog) -> list[list[float]]:
    """From and up to how many equivalents the runs of a memo were made by `paper_on_gpu.py`, one entry for each go."""
    found = (read_json(memo.path.with_suffix(".json")) if memo.path is not None else None) or {}
    return found.get("made_here") or ([[0.0, found["equivalents"]]] if found else [])


def where_made(memo: RunLog, made: str, spent: float) -> str:
    """Where and how the runs up to so many equivalents were made."""
    spans = made_here(memo) if made == "gpu" else []
    if not spans or memo.path is None:
        return "bfloat16" if made == "gpu" else made
    environment = read_json(memo.path.with_suffix(".json"))["environment"]
    device = environment["gpu"] or environment["cpu"]
    starts, ends = zip(*spans, (spent, spent), strict=True)
    pauses = [(end, min(start, spent)) for end, start in zip((0.0, *ends), starts, strict=False)]
    others = [f"{end:.0f} to {start:.0f}" for end, start in pauses if start - end > 1.0]  # a run more or less
    return f"{device}; of equivalents {' and '.join(others)} bfloat16" if others else device


def papers(
    bench: Any, budget: float, seed: int, efforts: list[float], mode: str, memo: Path, made: str
) -> Iterator[Offer]:
    """The best of the paper's search whenever it has spent as much as one of the efforts; dense runs included.

    made: its runs are made in `fp32`, or for speed from `bfloat16` factors (see `rounding_rows`), or have been made on
    a `gpu` (`paper_on_gpu.py`); what that has left out is made from bfloat16 factors here. Held-out runs are fp32.
    """
    kept = papers_memo(bench.setting, memo, made, f"-{budget:g}-{seed}" if made == "gpu" else "")
    judge = Evaluator(bench, kept)
    cases = range(min(PAPER_CASES, bench.setting.cases))
    name = "paper's search" if mode == "default" else f"paper's search, mode {mode}"
    search = PaperSearch(judge, cases, budget, random.Random(seed), mode)
    offers: list[Offer] = []
    ahead = sorted(efforts)

    def note(best: Evaluation) -> None:
        while ahead and judge.spent >= ahead[0]:
            told, where = f"{name}, effort {ahead.pop(0):g}", where_made(kept, made, judge.spent)
            offers.append(Offer(told, seed, judge.spent, best.genome, best.score, made=where))
            print(f"  {offers[-1].contestant}, seed {seed}: {best.score:.2f} dB", flush=True)

    rounded = contextlib.nullcontext() if made == "fp32" else bfloat16_products()
    with rounded, first_steps_remembered():
        for case in cases:
            judge.dense(case)
        search.run(max(efforts) + 1e-6, note)
    yield from offers


def replay_check(bench: Any, budget: float, count: int = 40, cases: int = 4) -> dict[str, Any]:
    """How well replay ranks placements, from near the bundled one to far from it, against real runs of all of them.

    Rank correlations of mean PSNR: with responses that the bundled schedule's runs have shown, and without.
    """
    judge, rng = Evaluator(bench, RunLog()), random.Random(0)
    replay = Replay(bench.setting, [judge.dense(case) for case in range(cases)])
    bundled = drawn_seed(bench.setting, budget)
    genomes = list(dict.fromkeys(moved(bundled, rng, 1 + number // 5) for number in range(count)))
    real = [verdict.score for verdict in judge.verdicts(genomes, range(cases))]
    without = [mean_psnr(replay.losses(genome)) for genome in genomes]
    judge.verdicts([bundled], range(cases))
    replay.learn([judge.outcomes[case, bundled] for case in range(cases)])
    told = [mean_psnr(replay.losses(genome)) for genome in genomes]
    row = {
        "budget": budget,
        "schedules": len(genomes),
        "real": [round(value, 3) for value in real],
        "replayed": [round(value, 3) for value in told],
        "rank_correlation": rank_correlation(real, told),
        "rank_correlation_without_responses": rank_correlation(real, without),
    }
    print(f"{budget:g}  replay against real runs: {row['rank_correlation']:.2f}", flush=True)
    return row


def small_check(bench: Any, budget: float, pairs: int = 64) -> dict[str, Any]:
    """How what placements gain over the drawn one on small clips goes with what they gain in full size."""
    small = bench.smaller(pairs)
    drawn = replace(drawn_seed(bench.setting, budget), forecast=initial_forecasts(bench.setting)[0])
    genomes = [drawn, *step_placements(drawn)]
    gains, seconds = {}, {}
    for name, each in (("large", bench), ("small", small)):
        judge = Evaluator(each, RunLog())
        verdicts = judge.verdicts(genomes, range(pairs))
        gains[name] = [verdict.score - verdicts[0].score for verdict in verdicts[1:]]
        seconds[name] = sum(sum(outcome.seconds) for outcome in judge.outcomes.values())
    off = [small_gain - gain for small_gain, gain in zip(gains["small"], gains["large"], strict=True)]
    row = {
        "budget": budget,
        "pairs": pairs,
        "share": small.setting.share,
        "share_by_the_clock": seconds["small"] / seconds["large"],
        **{f"gains_{name}": [round(value, 3) for value in values] for name, values in gains.items()},
        "correlation": statistics.correlation(gains["large"], gains["small"]),
        "off": statistics.fmean(off),
        "off_spread": statistics.stdev(off),
    }
    print(f"{budget:g}  gains on small clips against full size: {row['correlation']:.2f}", flush=True)
    return row


def rank_correlation(a: list[float], b: list[float]) -> float:
    return statistics.correlation(_ranks(a), _ranks(b))


def _ranks(values: list[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    for rank, place in enumerate(order):
        ranks[place] = float(rank)
    return ranks
