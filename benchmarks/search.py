"""Quality of searched schedules per work spent, on prompts and seeds that the search has not seen.

python benchmarks/search.py --testbed easy [--budgets 0.5 0.4 0.3] [--seeds 0 1 2] [--parts hand ours paper …]

Contestants at equal cost (see `lib/search/contestants.py`): hand-made schedules, the paper's evolutionary search from a
random population, and the node's search with 10, 30 and 100 dense-run equivalents. Each schedule is run on held-out
prompt–seed pairs. Parts can be run one by one: rows of the same code and settings are added to the result. Losses are
PSNR in dB against the dense run of the same prompt and seed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lib.host import process
from lib.host.environment import environment
from lib.host.harness import load_tiny
from lib.results import ROOT
from lib.search.cases import CALIBRATION, CALIBRATION_SEED, HELD_OUT, HELD_OUT_SEED
from lib.search.contest import Contest

PARTS = ("hand", "ours", "paper", "easycache")
EFFORTS = (10.0, 30.0, 100.0)
PAPER_EFFORTS = (30.0, 100.0, 300.0, 1000.0)
HOPELESS = 5.0  # dB behind the best hand-made schedule


def run_parts(contest: Contest) -> None:
    from lib.search import contestants
    from lib.search.easycache import easycache_rows

    args, bench = contest.args, contest.bench
    for budget in args.budgets:
        if "hand" in args.parts:
            found = contestants.baselines(bench.setting, budget)
            contest.take(budget, (contestants.Offer(name, 0, 0.0, g, None) for name, g in found.items()), HOPELESS)
        if "ours" in args.parts:
            for seed in args.seeds:
                for effort in args.efforts:
                    contest.take(budget, contestants.ours(bench, budget, seed, effort))
    for seed, budget in ((seed, budget) for seed in args.seeds for budget in args.budgets):
        if "paper" in args.parts:
            contest.take(budget, contestants.papers(bench, budget, seed, args.paper_efforts, args.run_log))
    if "easycache" in args.parts:
        contest.put("easycache", list(easycache_rows(contest)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--testbed", choices=tuple(HELD_OUT_SEED), default="easy")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.4, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the searches")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="simple")
    parser.add_argument("--efforts", type=float, nargs="+", default=list(EFFORTS))
    parser.add_argument("--paper-efforts", type=float, nargs="+", default=list(PAPER_EFFORTS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--run-log", type=Path, default=ROOT / "output" / "search", help="folder of finished runs")
    parser.add_argument("--calibrated-from", type=int, default=CALIBRATION_SEED, help="first seed to search on")
    parser.add_argument("--held-out-from", type=int, help="first seed of the held-out pairs")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="held-out pairs; fewer for a trial")
    parser.add_argument("--tag", default="", help="part of the result's name")
    args = parser.parse_args()
    if args.held_out_from is None:
        args.held_out_from = HELD_OUT_SEED[args.testbed]
    host = process.start(args, cpu=True)
    import torch

    from astraea.tiny.training.testbeds import TESTBEDS

    testbed = TESTBEDS[args.testbed]
    path = args.out / f"search-{args.testbed}-{args.steps}-steps{args.tag}-{host.version}.json"
    settings = {
        "testbed": args.testbed,
        "steps": args.steps,
        "cfg": args.cfg,
        "sampler": args.sampler,
        "scheduler": args.scheduler,
        "calibration_pairs": CALIBRATION,
        "calibration_drawn_from": args.calibrated_from,
        "held_out_pairs": args.held_out,
        "held_out_seeds_from": args.held_out_from,
    }
    made_with = {"environment": environment(host, args, "cpu"), "settings": settings}
    os.nice(5)
    with torch.inference_mode():
        run_parts(Contest(args, load_tiny(testbed.checkpoint), testbed, made_with, path))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
