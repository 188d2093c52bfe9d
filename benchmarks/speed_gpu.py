"""Speed and memory at real size: Wan 2.1 1.3B with random weights, 480p, in the real ComfyUI on a GPU.

python benchmarks/speed_gpu.py [--comfyui TREE] [--frames 33 81] [--minutes 7]
python benchmarks/speed_gpu.py --small        a trial on the CPU, about two minutes

Random weights tell speed and memory, not quality. Progress is printed; partial results are kept.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.host.harness import Job, accelerated, sample, sigmas_of, step_kinds, step_seconds, with_call_times
from lib.host.phases import profile
from lib.host.random_wan import gibibytes, job_480p, load_wan_480p, with_peak_memory
from lib.host.tables import profile_table, speed_gpu_markdown
from lib.results import write_json

MIN_STEPS = 8
DENSE_RUNS = 4.9  # cost of all runs of one clip, in dense runs: two dense ones and six accelerated
PROFILE_STEPS = 5
WARM_UP_STEPS = 4
PROFILE_BUDGET = 0.5


@dataclass
class Session:
    """One clip length on one model, and the deadline of the whole benchmark."""

    model: Any
    frames: int
    job: Job
    deadline: float
    device: Any

    @property
    def tokens(self) -> int:
        return self.job.shape[2] * self.job.shape[3] * self.job.shape[4] // 4

    def with_steps(self, steps: int) -> Job:
        return replace(self.job, steps=steps)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--small", action="store_true", help="a small model and clip on the CPU, float32, 6 steps")
    parser.add_argument("--frames", type=int, nargs="+", default=[33, 81], help="video frames (default 33 81)")
    parser.add_argument("--steps", type=int, default=20, help="fewer if the time is short")
    parser.add_argument("--minutes", type=float, default=7.0, help="what would begin later is left out")
    args = parser.parse_args()
    if args.small:
        args.frames, args.steps = [17], 6
    return args


def candidates(sigmas: list[float]) -> dict[str, tuple[Any, float | None]]:
    """Schedules by label, on the run's own noise levels, and the budget to request as the node does, or None."""
    from astraea.schedules import periodic, uniform

    return {
        "auto 0.5": (None, 0.5),
        "auto 0.3": (None, 0.3),
        "uniform 0.5": (uniform("uniform 0.5", 0.5, sigmas), None),
        "uniform 0.3": (uniform("uniform 0.3", 0.3, sigmas), None),
        "anchor and probes .05 .05 .9": (periodic("probes", [0.05, 0.05, 0.9], sigmas), None),
        "whole steps 0 0 1": (periodic("whole 0 0 1", [0.0, 0.0, 1.0], sigmas), None),
    }


def dense_row(session: Session) -> dict[str, Any]:
    model, times = with_call_times(session.model)
    (_, seconds), peak = with_peak_memory(session.device, lambda: sample(model, session.job))
    return {"name": "dense", "run_seconds": seconds, "step_seconds": _by_kind(times, None), "peak_gib": peak}


def accelerated_row(session: Session, name: str, schedule: Any, budget: float | None) -> dict[str, Any]:
    base, times = with_call_times(session.model)
    model, handle = accelerated(base, schedule, budget=budget)
    (_, seconds), peak = with_peak_memory(session.device, lambda: sample(model, session.job))
    report = handle.last
    return {
        "name": name,
        "run_seconds": seconds,
        "step_seconds": _by_kind(times, report),
        "peak_gib": peak,
        "ideal_speedup": report.ideal_speedup,
        "computed_share": report.computed_share,
        "cache_gib": gibibytes(report.cache_bytes),
        "cache_policy": report.cache_policy,
        "calls": report.counts(),
        "notes": report.notes,
    }


def _by_kind(times: list[tuple[float, float]], report: Any) -> dict[str, float]:
    """Median seconds of a step by kind; the first step of a run warms up and is left out if there are others."""
    seconds = step_seconds(times)
    kinds = step_kinds(report) if report is not None else ["full"] * len(seconds)
    found: dict[str, list[float]] = {}
    for number, (kind, value) in enumerate(zip(kinds, seconds, strict=True)):
        found.setdefault(kind if number else "first", []).append(value)
    if "full" not in found and "first" in found:
        found["full"] = found["first"]
    return {kind: round(statistics.median(values), 6) for kind, values in found.items() if kind != "first"}


def warm_up(session: Session) -> float:
    """Seconds for choosing attention kernels, for few and many queries: once per machine, so before measured runs."""
    from astraea.schedules import periodic

    job = session.with_steps(WARM_UP_STEPS)
    base = session.model.clone()
    schedule = periodic("warm-up", [0.5, 0.05], sigmas_of(base, job.steps)[:-1], full_start=1)
    model, handle = accelerated(base, schedule)
    sample(model, job)
    return handle.last.tuning_seconds


def fitting_steps(session: Session, share_of_time: float) -> int:
    """The number of steps that fit into a share of the remaining time, by one short dense run."""
    model, times = with_call_times(session.model)
    sample(model, session.with_steps(3))
    step = min(step_seconds(times))
    print(f"{session.frames} frames, {session.tokens} tokens: a dense step takes {step:.3f} s", flush=True)
    dense_steps = (session.deadline - time.monotonic()) * share_of_time / step - 2 * PROFILE_STEPS - WARM_UP_STEPS
    return min(session.job.steps, max(MIN_STEPS, int(dense_steps / DENSE_RUNS)))


def measure(session: Session, entry: dict[str, Any], save: Callable[[], None]) -> None:
    """Runs dense, the candidates, and dense again; saves each row at once."""
    from astraea.schedules import uniform

    found = candidates(sigmas_of(session.model, session.job.steps)[:-1])
    tasks: list[Callable[[], dict[str, Any]]] = [lambda: dense_row(session)]
    tasks += [
        lambda n=name, s=schedule, b=budget: accelerated_row(session, n, s, b)
        for name, (schedule, budget) in found.items()
    ]
    tasks.append(lambda: dense_row(session))
    for task in tasks:
        if time.monotonic() > session.deadline:
            entry["left_out"] = "the time was up before all candidates had run"
            break
        entry["rows"].append(task())
        _compare_with_dense(entry["rows"])
        save()
        row = entry["rows"][-1]
        steps = ", ".join(f"{kind} {seconds:.3f}" for kind, seconds in row["step_seconds"].items())
        print(
            f"  {row['name']:30} {row['run_seconds']:7.2f} s, {row['speedup']:.2f}x; seconds per step: {steps}",
            flush=True,
        )
    if time.monotonic() < session.deadline:
        job = session.with_steps(PROFILE_STEPS)
        schedule = uniform(f"uniform {PROFILE_BUDGET}", PROFILE_BUDGET, sigmas_of(session.model, job.steps)[:-1])
        entry["profile"] = profile(session.model, session.device, job, schedule, PROFILE_BUDGET)
        print(profile_table(entry["profile"]), flush=True)
        save()


def _compare_with_dense(rows: list[dict[str, Any]]) -> None:
    dense = statistics.fmean(row["run_seconds"] for row in rows if row["name"] == "dense")
    for row in rows:
        row["speedup"] = dense / row["run_seconds"]


def main() -> None:
    args = arguments()
    deadline = time.monotonic() + 60 * args.minutes
    host = process.start_gpu(args)
    import torch

    device = torch.device("cpu" if args.small else "cuda")
    model, description = load_wan_480p(small=args.small, seed=args.seed)
    path = args.out / f"speed_gpu-{host.version}{'-small' if args.small else ''}.json"
    result: dict[str, Any] = {
        "benchmark": "speed_gpu",
        "environment": environment(host, args, device.type),
        "model": description,
        "clips": [],
    }

    def save() -> None:
        write_json(path, result)
        path.with_suffix(".md").write_text(speed_gpu_markdown(result), "utf-8")

    for number, frames in enumerate(args.frames):
        job = job_480p(frames, args.steps, 5.0, small=args.small, seed=args.seed)
        session = Session(model, frames, job, deadline, device)
        steps = fitting_steps(session, 1.0 / (len(args.frames) - number))
        session.job = session.with_steps(steps)
        shape = "x".join(map(str, session.job.shape[2:]))
        entry = {"frames": session.frames, "latents": shape, "tokens": session.tokens, "steps": steps, "rows": []}
        result["clips"].append(entry)
        entry["choosing_seconds"] = round(warm_up(session), 3)
        measure(session, entry, save)
    print(f"\nwritten: {path} and .md")


if __name__ == "__main__":
    main()
