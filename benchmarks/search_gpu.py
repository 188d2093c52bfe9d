"""A search at real size: Wan 2.1 1.3B with random weights, 480p, in the real ComfyUI on a GPU.

python benchmarks/search_gpu.py [--comfyui TREE] [--frames 33] [--steps 20] [--effort 10] [--budgets 0.5 0.4 0.3]
python benchmarks/search_gpu.py --small        a trial on the CPU, about a minute

Random weights tell time and memory, not quality: whether a search takes the time that its effort says, what it needs
beside a run, and whether the schedules keep the seconds that it promises for them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import host_process
from environment import environment, write_json
from harness import Job, accelerated, sample, sigmas_of
from speed_gpu import CONTEXT, SMALL, start, watched

RUNS = 3  # of what was found, each with another seed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_arguments(parser)
    parser.add_argument("--small", action="store_true", help="a small model and clip on the CPU, float32")
    parser.add_argument("--frames", type=int, default=33, help="video frames")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--effort", type=float, default=10.0, help="dense runs' worth of time")
    parser.add_argument("--cases", type=int, default=2, help="clips that candidates are judged on, at most")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.4, 0.3])
    args = parser.parse_args()
    if args.small:
        args.frames, args.steps = 17, 12
    return args


def searched(model: Any, job: Job, args: argparse.Namespace) -> Any:
    """The search that is over, made as the node makes it, and its seconds."""
    import comfy.samplers
    import torch

    from astraea.host.search.progress import progress_text
    from astraea.host.search.runner import ComfyRunner
    from astraea.host.search.session import cases_of
    from astraea.search.driver import Search
    from astraea.search.evaluation.run_log import RunLog

    latent = {"samples": torch.zeros(job.shape)}
    bench = ComfyRunner(
        model,
        cases_of([[[job.positive, {}]]], [[job.negative, {}]], latent, args.seed + 1, args.cases),
        sampler=comfy.samplers.sampler_object(job.sampler),
        sigmas=torch.tensor(sigmas_of(model, job.steps, job.scheduler)),
        cfg=job.cfg,
    )

    def watch(progress: Any) -> None:
        print(progress_text(progress).replace("\n", "; "), flush=True)

    began = time.perf_counter()
    search = Search(bench, RunLog(), budgets=args.budgets, effort=args.effort, seed=args.seed, watch=watch)
    search.run()
    return search, time.perf_counter() - began


def kept_promise(model: Any, job: Job, found: Any) -> dict[str, Any]:
    """Seconds in the model that the search promised for a schedule, and those of runs with other seeds."""
    fast, handle = accelerated(model, found.schedule)
    measured = []
    for seed in range(RUNS):
        sample(fast, Job(job.shape, job.positive, job.negative, 100 + seed, job.steps, job.cfg))
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
    """Dense, the search, what it found, dense again; all is saved as soon as it is there."""
    import torch
    from random_wan import WanSize, load_random_wan, random_context

    size, dtype = (SMALL, torch.float32) if args.small else (WanSize(), torch.bfloat16)
    device = torch.device("cpu" if args.small else "cuda")
    model = load_random_wan(size, dtype, device.type, args.seed)
    positive, negative = (random_context(CONTEXT, args.seed + number) for number in range(2))
    height, width = (32, 32) if args.small else (60, 104)
    job = Job((1, 16, (args.frames - 1) // 4 + 1, height, width), positive, negative, args.seed, args.steps, args.cfg)
    sample(model, Job(job.shape, positive, negative, args.seed, 3, args.cfg))  # loads it, warms up
    (_, dense), peak = watched(device, lambda: sample(model, job))
    (search, seconds), search_peak = watched(device, lambda: searched(model, job, args))
    found = search.result()
    result |= {
        "model": f"Wan 2.1 format, random weights, {size.label()}",
        "latents": "x".join(map(str, job.shape[2:])),
        "steps": job.steps,
        "dense": {"run_seconds": dense, "peak_gib": peak},
        "search": {
            "effort": args.effort,
            "spent": found.spent,
            "seconds": seconds,
            "dense_runs_long": seconds / dense,
            "runs": search.runs,
            "small_clips": found.small_clips,
            "peak_gib": search_peak,
        },
        "schedules": [],
    }
    print(f"dense run {result['dense']}\nsearch {result['search']}", flush=True)
    save()
    for best in found.best:
        result["schedules"].append(kept_promise(model, job, best))
        print(result["schedules"][-1], flush=True)
        save()
    (_, again), _ = watched(device, lambda: sample(model, job))
    result["dense"]["run_seconds_after"] = again
    save()


def main() -> None:
    args = arguments()
    host = start(args)
    path: Path = args.out / f"search_gpu-{host.version}{'-small' if args.small else ''}.json"
    result = {"benchmark": "search_gpu", "environment": environment(host, args, "cpu" if args.small else "cuda")}
    measure(args, result, lambda: write_json(path, result))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
