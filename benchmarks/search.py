"""What a search is worth: schedules found with so much work, on prompts and seeds that the search has not seen.

python benchmarks/search.py --testbed easy [--budgets 0.5 0.4 0.3] [--seeds 0 1 2] [--parts hand ours paper …]

Contestants at equal cost (see `search_contest.py`): what one draws by hand, dynamic programming alone, the paper's
evolutionary search from a random population, and the node's search with 10, 30 and 100 dense-run equivalents. Every
schedule on offer is then run on held-out prompt–seed pairs. Parts can be run one by one: rows of the same code and
settings are added to what is there. Losses are PSNR in dB against the dense run of the same prompt and seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import host_process
from environment import change_json, environment, read_json

PARTS = ("hand", "programming", "ours", "paper", "forecasts", "easycache", "transfer", "time", "replay")
EFFORTS = (10.0, 30.0, 100.0)
PAPER_EFFORTS = (30.0, 100.0, 300.0, 1000.0)
CALIBRATION, HELD_OUT = 16, {"easy": 48, "hard": 8}
HELD_OUT_SEED, CALIBRATION_SEED = 1000, 5000
TIMED, TRANSFERRED = 16, 8  # pairs of the parts that time each run, or run it in many ways
FIRST_PAIRS, HOPELESS = 3, 5.0
ROW_KEY = ("contestant", "budget", "seed")
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5)
# Other ways to sample than a schedule was found for: steps, guidance, sampler, latent height and width as a share.
TRANSFERS: tuple[dict[str, Any], ...] = (
    {"steps": 12},
    {"steps": 50},
    {"cfg": 1.0},
    {"cfg": 6.0},
    {"sampler": "uni_pc"},
    {"sampler": "res_multistep"},
    {"scale": 1.5},
)


def bench_for(model: Any, testbed: Any, way: dict[str, Any], pairs: Sequence[tuple[str, int]]) -> Any:
    """A bench over `(prompt, seed)` pairs; way: steps, cfg, sampler, scale."""
    import comfy.samplers
    import torch
    from harness import sigmas_of

    from astraea.host.search_bench import Case, HostBench

    shape = list(testbed.latent_shape)
    shape[-2:] = [2 * round(size * way.get("scale", 1.0) / 2) for size in shape[-2:]]
    cases = [
        Case(
            [[testbed.context(prompt)[None], {}]],
            [[testbed.context("")[None], {}]],
            {"samples": torch.zeros(shape)},
            seed,
        )
        for prompt, seed in pairs
    ]
    return HostBench(
        model,
        cases,
        sampler=comfy.samplers.sampler_object(way["sampler"]),
        sigmas=torch.tensor(sigmas_of(model, way["steps"], way.get("scheduler", "simple"))),
        cfg=way["cfg"],
    )


def calibration_pairs(testbed: Any) -> list[tuple[str, int]]:
    """Captions of scenes drawn as those of training are; none is a prompt that is held out."""
    drawn = (testbed.draw(random.Random(CALIBRATION_SEED + n), 6, 32, 32)[0][1] for n in itertools.count())
    prompts = itertools.islice((prompt for prompt in drawn if prompt not in testbed.prompts), CALIBRATION)
    return [(prompt, number) for number, prompt in enumerate(prompts)]


def held_out_pairs(testbed: Any, count: int) -> list[tuple[str, int]]:
    """The testbed's prompts, the second half first, with seeds of their own."""
    prompts, half = len(testbed.prompts), len(testbed.prompts) // 2
    return [(testbed.prompts[(half + number) % prompts], HELD_OUT_SEED + number) for number in range(count)]


class Contest:
    """Rows by contestant and budget, written after each; several processes may add to one file."""

    def __init__(self, args: argparse.Namespace, model: Any, testbed: Any, made_with: dict[str, Any], path: Path):
        from astraea.search.judge import Judge
        from astraea.search.memo import Memo

        self.args, self.model, self.testbed, self.path = args, model, testbed, path
        self.made_with = made_with
        self.way = {"steps": args.steps, "cfg": args.cfg, "sampler": args.sampler, "scheduler": args.scheduler}
        self.bench = bench_for(model, testbed, self.way, calibration_pairs(testbed))
        held_out = bench_for(model, testbed, self.way, held_out_pairs(testbed, HELD_OUT[testbed.name]))
        memo = Memo(args.memo / f"{held_out.setting.identity}-held-out.jsonl", held_out.setting.identity)
        self.held_out = Judge(held_out, memo)

    @property
    def result(self) -> dict[str, Any]:
        return read_json(self.path) or {"rows": []}

    def add(self, row: dict[str, Any]) -> None:
        """In place of a row of the same contestant, budget and search seed."""
        key = [row[name] for name in ROW_KEY]

        def change(result: dict[str, Any]) -> None:
            others = [other for other in result.get("rows", []) if [other[name] for name in ROW_KEY] != key]
            result |= self.made_with | {"rows": [*others, {**row, "measured": self.measured}]}

        change_json(self.path, change)

    def put(self, part: str, rows: list[dict[str, Any]]) -> None:
        """A part that is measured as a whole."""

        def change(result: dict[str, Any]) -> None:
            result |= self.made_with | {part: rows, "measured": result.get("measured", {}) | {part: self.measured}}

        change_json(self.path, change)

    @property
    def measured(self) -> dict[str, Any]:
        return {name: self.made_with["environment"][name] for name in ("date", "commit", "pack_code")}

    def take(self, budget: float, offers: Iterable[Any], hopeless: float = math.inf) -> None:
        """Run what is on offer on the held-out pairs; not to the end what is so many dB behind on the first ones."""
        best: list[float] = []
        for offer in offers:
            first = self.held_out.verdicts([offer.genome], range(FIRST_PAIRS))[0].score
            if best and first < max(best) - hopeless:
                print(f"{budget:g}  {offer.contestant:34} is {max(best) - first:.1f} dB behind: dropped", flush=True)
                continue
            best.append(first)
            verdict = self.held_out.verdicts([offer.genome], range(self.held_out.setting.cases))[0]
            row = {
                "contestant": offer.contestant,
                "budget": budget,
                "seed": offer.seed,
                "spent": round(offer.spent, 2),
                "mean_budget": round(sum(offer.genome.budgets) / len(offer.genome.budgets), 4),
                "psnr_calibration": offer.psnr,
                "psnr": verdict.score,
                "psnr_all": [round(psnr_of(loss), 3) for loss in verdict.losses],
                "budgets": list(offer.genome.budgets),
                "mode": offer.genome.mode,
                "forecast": vars(offer.genome.forecast),
                "speedup": offer.speedup,
            }
            self.add(row)
            print(f"{budget:g}  {offer.contestant:34} seed {offer.seed}  {verdict.score:6.2f} dB held out", flush=True)


def psnr_of(loss: float) -> float:
    from astraea.search.judge import mean_psnr

    return mean_psnr([loss])


def run_parts(contest: Contest) -> None:
    import search_contest as contestants

    args, bench = contest.args, contest.bench
    for budget in args.budgets:
        if "hand" in args.parts:
            drawn = contestants.hand_made(bench.setting, budget)
            contest.take(budget, (contestants.Offer(name, 0, 0.0, g, None) for name, g in drawn.items()), HOPELESS)
        if "programming" in args.parts:
            contest.take(budget, contestants.by_programming(bench, budget))
        if "ours" in args.parts:
            for seed in args.seeds:
                for effort in args.efforts:
                    contest.take(budget, contestants.ours(bench, budget, seed, effort))
    for seed, budget in ((seed, budget) for seed in args.seeds for budget in args.budgets):
        if "paper" in args.parts:
            efforts = [effort for effort in PAPER_EFFORTS if effort <= args.paper_effort]
            contest.take(budget, contestants.papers(bench, budget, seed, efforts, "default", args.memo))
    if "forecasts" in args.parts:
        contest.put("forecasts", list(forecast_rows(contest)))
    if "easycache" in args.parts:
        contest.put("easycache", list(easycache_rows(contest)))
    if "transfer" in args.parts:
        contest.put("transfer", list(transfer_rows(contest)))
    if "time" in args.parts:
        contest.put("time", list(time_rows(contest)))
    if "replay" in args.parts:
        contest.put("replay", [contestants.replay_check(bench, budget) for budget in args.budgets])


def found_by_us(contest: Contest, budget: float, effort: float = 30.0) -> list[dict[str, Any]]:
    name = f"ours, effort {effort:g}"
    return [row for row in contest.result["rows"] if row["contestant"] == name and row["budget"] == budget]


def genome_from(row: dict[str, Any]) -> Any:
    from astraea.schedules import Forecast
    from astraea.search.genome import Genome

    return Genome(tuple(row["budgets"]), Forecast(**row["forecast"]), row["mode"])


def forecast_rows(contest: Contest) -> Iterator[dict[str, Any]]:
    """On the steps of the bundled schedule: the ways to forecast that a search begins with, at two guidance scales."""
    from astraea.schedules import STANDARD_FORECAST
    from astraea.search.genome import PROMISING
    from astraea.search.judge import Judge
    from astraea.search.memo import Memo
    from astraea.search.seeds import bundled_seed

    pairs = held_out_pairs(contest.testbed, min(TIMED, HELD_OUT[contest.testbed.name]))
    for cfg in (contest.args.cfg, 2.0 * contest.args.cfg):
        bench = bench_for(contest.model, contest.testbed, {**contest.way, "cfg": cfg}, pairs)
        judge = Judge(bench, Memo())
        for budget in contest.args.budgets:
            placed = bundled_seed(bench.setting, budget)
            genomes = [dataclasses.replace(placed, forecast=way) for way in (STANDARD_FORECAST, *PROMISING)]
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
    from astraea.engine.quality import psnr, value_range

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
    """What was found for one way of sampling, on others; beside it what is bundled."""
    from astraea.schedules import budgets_for
    from astraea.search.genome import Genome, with_ends
    from astraea.search.judge import Judge
    from astraea.search.memo import Memo
    from astraea.search.seeds import bundled_seed

    pairs = held_out_pairs(contest.testbed, TRANSFERRED if contest.testbed.name == "easy" else 4)
    for change in TRANSFERS:
        bench = bench_for(contest.model, contest.testbed, {**contest.way, **change}, pairs)
        judge, setting = Judge(bench, Memo()), bench.setting
        for budget in contest.args.budgets:
            own = []
            for row in found_by_us(contest, budget):
                genome = genome_from(row)
                schedule = genome.schedule(contest.bench.setting.sigmas)
                placed = budgets_for(schedule, setting.sigmas, evaluations=setting.evaluations, mean=budget)
                own.append(Genome(tuple(with_ends(placed, setting.sigmas)), genome.forecast, genome.mode))
            verdicts = judge.verdicts([bundled_seed(setting, budget), *own], range(len(pairs)))
            row = {
                "to": change,
                "budget": budget,
                "bundled": verdicts[0].score,
                "ours": [v.score for v in verdicts[1:]],
            }
            print(f"{budget:g}  to {change}: bundled {row['bundled']:.2f}, ours {row['ours']}", flush=True)
            yield row


def time_rows(contest: Contest) -> Iterator[dict[str, Any]]:
    """Seconds that a search promised against those of runs made afterwards, on other pairs."""
    from astraea.search.driver import Search
    from astraea.search.memo import Memo

    bench = bench_for(contest.model, contest.testbed, contest.way, calibration_pairs(contest.testbed)[:2])
    for budget in contest.args.budgets:
        result = Search(bench, Memo(), budgets=[budget], effort=10.0, seed=0).run()
        best = result.best[0]
        later = bench_for(contest.model, contest.testbed, contest.way, held_out_pairs(contest.testbed, 4))
        for case in range(4):
            later.dense(case)
        from astraea.search.problem import Job

        measured = [sum(o.seconds) for o in later.measure([Job(case, best.schedule) for case in range(4)])]
        row = {"budget": budget, "promised": best.seconds, "measured": measured, "speedup": best.speedup}
        print(f"{budget:g}  promised {best.seconds:.3f} s, measured {[round(m, 3) for m in measured]}", flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_arguments(parser)
    parser.add_argument("--testbed", choices=("easy", "hard"), default="easy")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.4, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the searches")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="simple")
    parser.add_argument("--efforts", type=float, nargs="+", default=list(EFFORTS))
    parser.add_argument("--paper-effort", type=float, default=max(PAPER_EFFORTS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--memo", type=Path, default=host_process.ROOT / "output" / "search", help="for interrupted runs"
    )
    parser.add_argument("--tag", default="", help="part of the result's name")
    args = parser.parse_args()
    host = host_process.start(args, cpu=True)
    import torch
    from faster_cpu import use_onednn
    from harness import load_tiny

    from astraea.tiny.testbeds import TESTBEDS

    if not {"easycache", "time"} & set(args.parts):
        use_onednn()
    testbed = TESTBEDS[args.testbed]
    path = args.out / f"search-{args.testbed}-{args.steps}-steps{args.tag}-{host.version}.json"
    settings = {
        "testbed": args.testbed,
        "steps": args.steps,
        "cfg": args.cfg,
        "sampler": args.sampler,
        "scheduler": args.scheduler,
        "calibration_pairs": CALIBRATION,
        "held_out_pairs": HELD_OUT[args.testbed],
    }
    made_with = {"environment": environment(host, args, "cpu"), "settings": settings}
    os.nice(5)
    with torch.inference_mode():
        run_parts(Contest(args, load_tiny(testbed.checkpoint), testbed, made_with, path))
    print(json.dumps({"written": str(path)}))


if __name__ == "__main__":
    main()
