"""The runs of the paper's search on a GPU, for `search.py --parts paper --searched-on gpu` to go on from.

python benchmarks/paper_on_gpu.py [--testbed hard] [--budgets 0.5 0.4 0.3] [--seeds 0 1 2] [--minutes 8]

A thousand dense-run equivalents take an H200 six to eight minutes with six such searches side by side (under CUDA's
multi-process service), a CPU core an hour. All prompts of a candidate are one batch. What has been run is kept as it
happens, a file for each budget and seed. `search.py` then makes the same decisions from it, goes on where it ends, and
runs what was found on held-out pairs.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import host_process
from environment import environment, write_json

from search import PAPER_EFFORTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_arguments(parser)
    parser.add_argument("--testbed", choices=("easy", "hard"), default="hard")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.4, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the searches")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--effort", type=float, default=max(PAPER_EFFORTS))
    parser.add_argument("--minutes", type=float, default=8.0, help="what is not done then is left for another time")
    parser.add_argument("--memo", type=Path, default=host_process.ROOT / "output" / "search")
    parser.add_argument("--cpu", action="store_true", help="a trial on the CPU")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    host = host_process.start(args, cpu=args.cpu)
    import torch
    from batched_bench import BatchedBench, rounded_on_gpu
    from harness import load_tiny
    from search_contest import PAPER_CASES, made_here, papers_memo
    from search_pairs import bench_for, calibration_pairs

    from astraea.search.evaluation.evaluator import Evaluator
    from astraea.search.paper_search import PaperSearch
    from astraea.tiny.training.testbeds import TESTBEDS

    class UntilTheTimeIsUp(BatchedBench):
        runs = 0

        def measure(self, jobs: Any) -> Iterator[Any]:
            if time.monotonic() > deadline:
                raise TimeoutError
            self.runs += len(jobs)
            began_at.setdefault("equivalents", judge.spent)
            yield from super().measure(jobs)

    testbed = TESTBEDS[args.testbed]
    model = load_tiny(testbed.checkpoint, torch.float32)
    way = {"steps": args.steps, "cfg": args.cfg, "sampler": "euler", "scheduler": "simple"}
    bench = bench_for(model, testbed, way, calibration_pairs(testbed), UntilTheTimeIsUp)
    if bench.together != PAPER_CASES:
        raise SystemExit(f"The paper's fitness is taken over {PAPER_CASES} prompts.")
    device = "cpu" if args.cpu else "cuda"
    with torch.inference_mode(), rounded_on_gpu():
        for seed, budget in ((seed, budget) for seed in args.seeds for budget in args.budgets):
            memo = papers_memo(bench.setting, args.memo, "gpu", f"-{budget:g}-{seed}")
            began, judge = time.monotonic(), Evaluator(bench, memo)
            began_at: dict[str, float] = {}  # what was known before is replayed until there
            alike = [_apart(bench, case, judge.dense(case)) for case in range(PAPER_CASES)]
            print(f"{budget:g}, seed {seed}: alone and in the batch, dense runs are {max(alike):.1e} apart", flush=True)
            dense_only = judge.spent
            search = PaperSearch(judge, range(PAPER_CASES), budget, random.Random(seed))
            runs = bench.runs
            try:
                search.run(args.effort + 1e-6)
                done = True
            except TimeoutError:
                done = False
            assert memo.path is not None
            spans = made_here(memo)
            if began_at:
                start = began_at["equivalents"]
                spans.append([start if start > dense_only else 0.0, judge.spent])
            found = {
                "environment": environment(host, args, device),
                "budget": budget,
                "seed": seed,
                "equivalents": judge.spent,
                "made_here": spans,
                "complete": done,
                "runs": bench.runs - runs,
                "seconds": time.monotonic() - began,
                "dense_runs_apart": alike,
            }
            write_json(memo.path.with_suffix(".json"), found)
            best = f"{search.best.score:.2f} dB" if search.best is not None else "nothing"
            print(
                f"{budget:g}, seed {seed}: {judge.spent:.0f} equivalents, {bench.runs - runs} runs in "
                f"{found['seconds']:.0f} s, best {best}{'' if done else '; not done'}",
                flush=True,
            )


def _apart(bench: Any, case: int, recording: Any) -> float:
    """Root mean square by which a case's dense result differs when it is sampled in the batch, over its range."""
    alone, batch = bench.known(case).final[0], bench.everything.final[case]
    return float((alone - batch).square().mean().sqrt()) / recording.peak


if __name__ == "__main__":
    main()
