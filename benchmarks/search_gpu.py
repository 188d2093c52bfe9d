"""A search at real size: Wan 2.1 1.3B with random weights, 480p, in the real ComfyUI on a GPU.

python benchmarks/search_gpu.py [--comfyui TREE] [--frames 33] [--steps 20] [--effort 10] [--budgets 0.5 0.4 0.3]
python benchmarks/search_gpu.py --small        a trial on the CPU, about a minute

Random weights show time and memory, not quality: whether a search takes the time its effort says, its memory on top of
a run's, and whether the schedules take the seconds that the search expects.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.host.harness import Job, accelerated, sample, sigmas_of
from lib.host.random_wan import job_480p, load_wan_480p, with_peak_memory
from lib.results import write_json

RUNS = 3  # of each schedule that was found, with different seeds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--small", action="store_true", help="a small model and clip on the CPU, float32")
    parser.add_argument("--frames", type=int, default=33, help="video frames")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--effort", type=float, default=10.0, help="cost of the search, in dense runs")
    parser.add_argument("--cases", type=int, default=2, help="most cases that candidates are run on")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.4, 0.3])
    args = parser.parse_args()
    if args.small:
        args.frames, args.steps = 17, 12
    return args


def searched(model: Any, job: Job, args: argparse.Namespace) -> Any:
    """A finished search, run as the node runs it, and its seconds."""
    import comfy.samplers
    import torch

    from astraea.host.search.progress import progress_text
    from astraea.host.search.runner import ComfyRunner
    from astraea.host.search.session import make_cases
    from astraea.search.driver import Search
    from astraea.search.evaluation.run_log import RunLog
    from astraea.search.problem.config import SearchConfig

    latent = {"samples": torch.zeros(job.shape)}
    bench = ComfyRunner(
        model,
        make_cases([[[job.positive, {}]]], [[job.negative, {}]], latent, args.seed + 1, args.cases),
        sampler=comfy.samplers.sampler_object(job.sampler),
        sigmas=torch.tensor(sigmas_of(model, job.steps, job.scheduler)),
        cfg=job.cfg,
    )

    def watch(progress: Any) -> None:
        print(progress_text(progress).replace("\n", "; "), flush=True)

    began = time.perf_counter()
    search = Search(
        bench, RunLog(), SearchConfig(budgets=tuple(args.budgets), effort=args.effort, seed=args.seed), watch=watch
    )
    search.run()
    return search, time.perf_counter() - began


def expected_and_measured(model: Any, job: Job, found: Any) -> dict[str, Any]:
    """Seconds in the model that the search expects of a schedule, and those of runs with other seeds."""
    fast, handle = accelerated(model, found.schedule)
    measured = []
    for seed in range(RUNS):
        sample(fast, replace(job, seed=100 + seed))
        measured.append(handle.last.model_seconds)
    return {
        "budget": found.budget,
        "computed_share": handle.last.computed_share,
        "promised_seconds": found.seconds,
        "measured_seconds": measured,
        "measured_over_promised": statistics.median(measured) / found.seconds,
        "promised_speedup": found.speedup,
    }


def measure(args: argparse.Namespace, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Runs dense, the search, its schedules, and dense again; saves each result at once."""
    import torch

    device = torch.device("cpu" if args.small else "cuda")
    model, description = load_wan_480p(small=args.small, seed=args.seed)
    job = job_480p(args.frames, args.steps, args.cfg, small=args.small, seed=args.seed)
    sample(model, replace(job, steps=3))  # loads the model, warms up
    (_, dense), peak = with_peak_memory(device, lambda: sample(model, job))
    (search, seconds), search_peak = with_peak_memory(device, lambda: searched(model, job, args))
    found = search.result()
    result |= {
        "model": description,
        "latents": "x".join(map(str, job.shape[2:])),
        "steps": job.steps,
        "dense": {"run_seconds": dense, "peak_gib": peak},
        "search": {
            "effort": args.effort,
            "spent": found.cost,
            "seconds": seconds,
            "dense_runs_long": seconds / dense,
            "runs": search.effort.runs,
            "small_clips": found.proxy_cases,
            "peak_gib": search_peak,
        },
        "schedules": [],
    }
    print(f"dense run {result['dense']}\nsearch {result['search']}", flush=True)
    save()
    for best in found.best:
        result["schedules"].append(expected_and_measured(model, job, best))
        print(result["schedules"][-1], flush=True)
        save()
    (_, again), _ = with_peak_memory(device, lambda: sample(model, job))
    result["dense"]["run_seconds_after"] = again
    save()


def main() -> None:
    args = arguments()
    host = process.start_gpu(args)
    path: Path = args.out / f"search_gpu-{host.version}{'-small' if args.small else ''}.json"
    result = {"benchmark": "search_gpu", "environment": environment(host, args, "cpu" if args.small else "cuda")}
    measure(args, result, lambda: write_json(path, result))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
