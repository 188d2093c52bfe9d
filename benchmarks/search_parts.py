"""Parts of `search.py` measured as a whole: ways to forecast, EasyCache, other ways of sampling, promised time.

Import after the host was started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from statistics import fmean, stdev
from typing import Any

from search_pairs import HELD_OUT, bench_for, calibration_pairs, held_out_pairs, psnr_of
from search_rows import Contest

ROUNDED_EFFORT = 12.0  # of the paper's search on one case that is made twice
TIMED = 16  # pairs of the parts that run each in many ways
TRANSFERRED = {"easy": 8, "hard": 4}
PROMISED = {"easy": 5, "hard": 3}  # searches whose promises are held against the clock
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5)
# Other ways to sample than a schedule was found for: steps, guidance, sampler, latent height and width as a share.
TRANSFERS: tuple[dict[str, Any], ...] = (
    {"steps": 12},
    {"steps": 20},
    {"steps": 50},
    {"cfg": 1.0},
    {"cfg": 4.5},
    {"cfg": 6.0},
    {"sampler": "uni_pc"},
    {"sampler": "res_multistep"},
    {"scale": 1.5},
)


def found_by_us(contest: Contest, budget: float, effort: float = 30.0) -> list[dict[str, Any]]:
    name = f"ours, effort {effort:g}"
    return [row for row in contest.result["rows"] if row["contestant"] == name and row["budget"] == budget]


def genome_from(row: dict[str, Any]) -> Any:
    from astraea.schedules import Forecast
    from astraea.search.candidate import Genome

    return Genome(tuple(row["budgets"]), Forecast(**row["forecast"]), row["mode"])


def forecast_rows(contest: Contest) -> Iterator[dict[str, Any]]:
    """On the steps of the drawn schedule: the ways to forecast that a search begins with, at two guidance scales."""
    from search_contest import drawn_seed

    from astraea.schedules import DEFAULT_FORECAST
    from astraea.search.candidate import FINAL_STEP_GAINS
    from astraea.search.evaluation.evaluator import Evaluator
    from astraea.search.evaluation.run_log import RunLog
    from astraea.search.proposals.priors import initial_forecasts

    pairs = held_out_pairs(contest.testbed, min(TIMED, HELD_OUT[contest.testbed.name]))
    answered = dataclasses.replace(DEFAULT_FORECAST, final_step_gain=FINAL_STEP_GAINS[-1])
    ways = (DEFAULT_FORECAST, answered, *initial_forecasts(contest.bench.setting))
    for cfg in (contest.args.cfg, 2.0 * contest.args.cfg):
        bench = bench_for(contest.model, contest.testbed, {**contest.way, "cfg": cfg}, pairs)
        judge = Evaluator(bench, RunLog())
        for budget in contest.args.budgets:
            placed = drawn_seed(bench.setting, budget)
            genomes = [dataclasses.replace(placed, forecast=way) for way in ways]
            verdicts = judge.verdicts(genomes, range(len(pairs)))
            for genome, verdict in zip(genomes, verdicts, strict=True):
                row = {
                    "cfg": cfg,
                    "budget": budget,
                    "forecast": vars(genome.forecast),
                    "psnr_all": [round(psnr_of(loss), 3) for loss in verdict.losses],
                }
                print(f"{budget:g}  guidance {cfg:g}  {genome.forecast}: {verdict.score:.2f} dB", flush=True)
                yield row


def easycache_rows(contest: Contest) -> Iterator[dict[str, Any]]:
    """EasyCache at several thresholds and ours, on the held-out pairs, timed in turn with dense runs.

    The negative context is one empty word longer: cond and uncond are then calls of their own, without which EasyCache
    of ComfyUI 0.3.64 mixes them up.
    """
    import torch
    from harness import Job, accelerated, sample
    from step_caches import easycache

    testbed, model = contest.testbed, contest.model
    pairs, empty = held_out_pairs(testbed, min(TIMED, HELD_OUT[testbed.name])), testbed.context("")
    jobs = [
        Job(
            testbed.latent_shape,
            testbed.context(prompt)[None],
            torch.cat([empty, empty[:1]])[None],
            seed=seed,
            steps=contest.args.steps,
            cfg=contest.args.cfg,
        )
        for prompt, seed in pairs
    ]
    candidates: dict[str, Any] = {f"EasyCache {value:g}": easycache(model, value)[0] for value in THRESHOLDS}
    for budget in contest.args.budgets:
        for row in found_by_us(contest, budget)[:1]:
            schedule = genome_from(row).schedule(contest.bench.setting.sigmas)
            candidates[f"ours {budget:g}"] = accelerated(model, schedule)[0]
    from astraea.engine.metrics import psnr, value_range

    told: dict[str, list[tuple[float, float, float]]] = {name: [] for name in candidates}
    for job in jobs:
        dense, seconds = sample(model, job)
        for name, candidate in candidates.items():
            output, own = sample(candidate, job)
            told[name].append((min(200.0, psnr(output, dense, value_range(dense))), seconds, own))
        print(f"  EasyCache: pair {len(told['EasyCache 0.02'])} of {len(jobs)}", flush=True)
    for name, values in told.items():
        yield {
            "name": name,
            "psnr": sum(value for value, _, _ in values) / len(values),
            "psnr_all": [round(value, 3) for value, _, _ in values],
            "speedup": sum(dense for _, dense, _ in values) / sum(own for _, _, own in values),
        }


def transfer_rows(contest: Contest) -> Iterator[dict[str, Any]]:
    """What was found for one way of sampling, on others; beside it what is drawn by hand.

    As runs take it, and, where they do not trust its way to forecast there, by that all the same.
    """
    from search_contest import drawn_seed

    from astraea.schedules import budgets_for, forecast_for
    from astraea.search.candidate import Genome, with_ends
    from astraea.search.evaluation.evaluator import Evaluator
    from astraea.search.evaluation.run_log import RunLog

    pairs = held_out_pairs(contest.testbed, TRANSFERRED[contest.testbed.name])
    for change in TRANSFERS:
        bench = bench_for(contest.model, contest.testbed, {**contest.way, **change}, pairs)
        judge, setting = Evaluator(bench, RunLog()), bench.setting
        for budget in contest.args.budgets:
            own, skip_selftest = [], []
            for row in found_by_us(contest, budget):
                genome = genome_from(row)
                made = genome.schedule(contest.bench.setting.sigmas)
                schedule = dataclasses.replace(made, provenance={"guidance": contest.args.cfg})
                placed = budgets_for(schedule, setting.sigmas, evaluations=setting.evaluations, mean=budget)
                forecast = forecast_for(schedule, setting.sigmas, placed, change.get("cfg", contest.args.cfg))
                own.append(Genome(tuple(with_ends(placed, setting.sigmas)), forecast, genome.mode))
                skip_selftest.append(dataclasses.replace(own[-1], forecast=genome.forecast))
            verdicts = judge.verdicts([drawn_seed(setting, budget), *own, *skip_selftest], range(len(pairs)))
            scores = [verdict.score for verdict in verdicts]
            row = {
                "to": change,
                "budget": budget,
                "drawn": scores[0],
                "ours": scores[1 : 1 + len(own)],
                "ours_trusted": scores[1 + len(own) :],
            }
            print(f"{budget:g}  to {change}: drawn {row['drawn']:.2f}, ours {row['ours']}", flush=True)
            yield row


def time_rows(contest: Contest) -> Iterator[dict[str, Any]]:
    """Seconds that searches promised against those of runs right afterwards, on other pairs; several times over.

    Each run follows a dense one, which tells whether the machine has become faster or slower since the search.
    """
    from astraea.search.driver import Search
    from astraea.search.evaluation.run_log import RunLog
    from astraea.search.problem import Job

    testbed, model, way = contest.testbed, contest.model, contest.way
    bench = bench_for(model, testbed, way, calibration_pairs(testbed)[:2])
    for number in range(PROMISED[testbed.name]):
        for budget in contest.args.budgets:
            result = Search(bench, RunLog(), budgets=[budget], effort=10.0, seed=number).run()
            best, later = result.best[0], bench_for(model, testbed, way, held_out_pairs(testbed, 4))
            dense, measured = [], []
            for case in range(4):
                dense.append(sum(later.dense(case).seconds))
                measured += [sum(outcome.seconds) for outcome in later.measure([Job(case, best.schedule)])]
            row = {
                "budget": budget,
                "promised": best.seconds,
                "measured": measured,
                "speedup": best.speedup,
                "dense_promised": result.dense_seconds,
                "dense_measured": dense,
            }
            off, dense_off = (
                fmean(found) / told - 1.0 for found, told in ((measured, best.seconds), (dense, result.dense_seconds))
            )
            print(f"{budget:g}  promised {best.seconds:.3f} s, off {off:+.1%}, dense runs {dense_off:+.1%}", flush=True)
            yield row


def rounding_rows(contest: Contest) -> Iterator[dict[str, Any]]:
    """Candidates of the paper's search, run from bfloat16 factors and from fp32 ones: whether they rank alike.

    seconds_share: what a run takes from bfloat16 factors, as a share of what it takes from fp32 ones.
    """
    from faster_cpu import bfloat16_products
    from search_contest import rank_correlation

    from astraea.search.evaluation.evaluator import Evaluator
    from astraea.search.evaluation.run_log import RunLog
    from astraea.search.paper_search import PaperSearch

    for budget in contest.args.budgets:
        scores, seconds = {}, {}
        for products, context in (("fp32", contextlib.nullcontext()), ("bfloat16", bfloat16_products())):
            judge = Evaluator(contest.calibration_bench(), RunLog())
            search = PaperSearch(judge, [0], budget, random.Random(0))
            with context:
                search.run(ROUNDED_EFFORT)
            scores[products] = [verdict.score for verdict in search.population]
            seconds[products] = sum(sum(outcome.seconds) for outcome in judge.outcomes.values())
        off = [b - a for a, b in zip(scores["fp32"], scores["bfloat16"], strict=True)]
        row = {
            "budget": budget,
            **{products: [round(value, 3) for value in values] for products, values in scores.items()},
            "rank_correlation": rank_correlation(scores["fp32"], scores["bfloat16"]),
            "off": fmean(off),
            "off_spread": stdev(off),
            "seconds_share": seconds["bfloat16"] / seconds["fp32"],
        }
        print(f"{budget:g}  bfloat16 against fp32: {row['rank_correlation']:.3f}, {row['off']:+.2f} dB", flush=True)
        yield row
