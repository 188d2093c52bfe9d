"""What a search is worth: schedules found with so much work, on prompts and seeds that the search has not seen.

python benchmarks/search.py --testbed easy [--budgets 0.5 0.4 0.3] [--seeds 0 1 2] [--parts hand ours paper …]

Contestants at equal cost (see `search_contest.py`): what one draws by hand, dynamic programming alone, the paper's
evolutionary search from a random population, and the node's search with 10, 30 and 100 dense-run equivalents. Every
schedule on offer is then run on held-out prompt–seed pairs. Parts can be run one by one: rows of the same code and
settings are added to what is there. Losses are PSNR in dB against the dense run of the same prompt and seed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import host_process
from environment import environment
from search_pairs import CALIBRATION, CALIBRATION_SEED, HELD_OUT, HELD_OUT_SEEDS_FROM
from search_rows import Contest

PARTS = ("hand", "programming", "ours", "paper", "forecasts", "easycache", "transfer", "time")
CHECKS = ("replay", "small", "rounding")  # of what the searches go by
EFFORTS = (10.0, 30.0, 100.0)
PAPER_EFFORTS = (30.0, 100.0, 300.0, 1000.0)
HOPELESS = 5.0
ROUNDED = ("hard",)  # testbeds where the paper's search would take days without


def run_parts(contest: Contest) -> None:
    import search_contest as contestants
    import search_parts as parts

    args, bench = contest.args, contest.bench
    made = args.searched_on if args.searched_on == "gpu" else "bfloat16" if args.testbed in ROUNDED else "fp32"
    papers_bench = bench if made == "fp32" else contest.calibration_bench()
    for budget in args.budgets:
        if "hand" in args.parts:
            drawn = contestants.baselines(bench.setting, budget)
            contest.take(budget, (contestants.Offer(name, 0, 0.0, g, None) for name, g in drawn.items()), HOPELESS)
        if "programming" in args.parts:
            contest.take(budget, contestants.by_programming(bench, budget))
        if "ours" in args.parts:
            for seed in args.seeds:
                for effort in args.efforts:
                    contest.take(budget, contestants.ours(bench, budget, seed, effort))
    for seed, budget in ((seed, budget) for seed in args.seeds for budget in args.budgets):
        if "paper" in args.parts:
            offers = contestants.papers(papers_bench, budget, seed, args.paper_efforts, "default", args.memo, made)
            contest.take(budget, offers)
    if "forecasts" in args.parts:
        contest.put("forecasts", list(parts.forecast_rows(contest)))
    if "easycache" in args.parts:
        contest.put("easycache", list(parts.easycache_rows(contest)))
    if "transfer" in args.parts:
        contest.put("transfer", list(parts.transfer_rows(contest)))
    if "time" in args.parts:
        contest.put("time", list(parts.time_rows(contest)))
    if "small" in args.parts:
        contest.put("small", [contestants.small_check(bench, budget) for budget in args.budgets])
    if "rounding" in args.parts:
        contest.put("rounding", list(parts.rounding_rows(contest)))
    if "replay" in args.parts:
        contest.put("replay", [contestants.replay_check(bench, budget) for budget in args.budgets])


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
    parser.add_argument(
        "--searched-on", choices=("cpu", "gpu"), default="cpu", help="the paper's; gpu: by paper_on_gpu.py before"
    )
    parser.add_argument("--paper-efforts", type=float, nargs="+", default=list(PAPER_EFFORTS))
    parser.add_argument("--parts", nargs="+", choices=PARTS + CHECKS, default=list(PARTS + CHECKS))
    parser.add_argument(
        "--memo", type=Path, default=host_process.ROOT / "output" / "search", help="for interrupted runs"
    )
    parser.add_argument(
        "--calibrated-from",
        type=int,
        default=CALIBRATION_SEED,
        help="seed of the scenes to search on, to search on others",
    )
    parser.add_argument("--held-out-from", type=int, help="first seed of the held-out pairs, to judge on others")
    parser.add_argument("--tag", default="", help="part of the result's name")
    args = parser.parse_args()
    if args.held_out_from is not None:
        HELD_OUT_SEEDS_FROM[args.testbed] = args.held_out_from
    host = host_process.start(args, cpu=True)
    import faster_cpu
    import torch
    from harness import load_tiny

    from astraea.tiny.training.testbeds import TESTBEDS

    if not {"easycache", "time"} & set(args.parts):
        faster_cpu.use()
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
        "held_out_pairs": HELD_OUT[args.testbed],
        "held_out_seeds_from": HELD_OUT_SEEDS_FROM[args.testbed],
    }
    made_with = {"environment": environment(host, args, "cpu"), "settings": settings}
    os.nice(5)
    with torch.inference_mode():
        run_parts(Contest(args, load_tiny(testbed.checkpoint), testbed, made_with, path))
    print(json.dumps({"written": str(path)}))


if __name__ == "__main__":
    main()
