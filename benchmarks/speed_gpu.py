"""Speed and memory at real size: Wan 2.1 1.3B with random weights, 480p, in the real ComfyUI on a GPU.

python benchmarks/speed_gpu.py [--comfyui TREE] [--frames 33 81] [--minutes 7]
python benchmarks/speed_gpu.py --small        a trial on the CPU, about two minutes

Random weights tell speed and memory, not quality. Progress is printed; partial results are kept.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import host_process
from environment import environment, write_json
from harness import Job, accelerated, print_table, sample, sigmas_of, step_kinds, step_seconds, with_call_times
from phases import PhaseTimer, shares
from random_wan import WanSize, load_random_wan, random_context
from tables import speed_gpu_markdown

CONTEXT = 512
MIN_STEPS = 8
DENSE_RUNS = 4.9  # what all runs of one clip cost, in dense runs: two dense ones and six accelerated
PROFILE_STEPS = 5
WARM_UP_STEPS = 4
SMALL = WanSize(dim=256, feed_forward=1024, layers=4)


@dataclass
class Session:
    """One clip length on one model, with the clock that the whole benchmark must keep."""

    model: Any
    frames: int
    job: Job
    deadline: float
    device: Any

    @property
    def tokens(self) -> int:
        return self.job.shape[2] * self.job.shape[3] * self.job.shape[4] // 4

    def with_steps(self, steps: int) -> Job:
        return Job(self.job.shape, self.job.positive, self.job.negative, self.job.seed, steps, self.job.cfg)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_arguments(parser)
    parser.add_argument("--small", action="store_true", help="a small model and clip on the CPU, float32, 6 steps")
    parser.add_argument("--frames", type=int, nargs="+", default=[33, 81], help="video frames (default 33 81)")
    parser.add_argument("--steps", type=int, default=20, help="fewer are taken where the time would not do")
    parser.add_argument("--minutes", type=float, default=7.0, help="what would begin later is left out")
    args = parser.parse_args()
    if args.small:
        args.frames, args.steps = [17], 6
    return args


def candidates(sigmas: list[float], job: Job) -> dict[str, tuple[Any, float | None]]:
    """Schedules by label, on the run's own noise levels, and the budget to ask for: what the node does, or None."""
    from astraea.schedules import periodic, pick, uniform

    bundled = {
        f"bundled {budget:g}": (pick(budget, "wan", steps=job.steps, guidance=job.cfg), budget) for budget in (0.5, 0.3)
    }
    return bundled | {
        "uniform 0.5": (uniform("uniform 0.5", 0.5, sigmas), None),
        "uniform 0.3": (uniform("uniform 0.3", 0.3, sigmas), None),
        "anchor and probes .05 .05 .9": (periodic("probes", [0.05, 0.05, 0.9], sigmas), None),
        "whole steps 0 0 1": (periodic("whole 0 0 1", [0.0, 0.0, 1.0], sigmas), None),
    }


def gigabytes(bytes_: int) -> float:
    return round(bytes_ / 2**30, 3)


def watched(device: Any, work: Callable[[], Any]) -> tuple[Any, float | None]:
    """The result of some work, and the most GPU memory that torch held meanwhile, in GiB."""
    import torch

    if device.type != "cuda":
        return work(), None
    torch.cuda.reset_peak_memory_stats(device)
    return work(), gigabytes(torch.cuda.max_memory_allocated(device))


def dense_row(session: Session) -> dict[str, Any]:
    model, times = with_call_times(session.model)
    (_, seconds), peak = watched(session.device, lambda: sample(model, session.job))
    return {"name": "dense", "run_seconds": seconds, "step_seconds": _by_kind(times, None), "peak_gib": peak}


def accelerated_row(session: Session, name: str, schedule: Any, budget: float | None) -> dict[str, Any]:
    base, times = with_call_times(session.model)
    model, handle = accelerated(base, schedule, budget=budget)
    (_, seconds), peak = watched(session.device, lambda: sample(model, session.job))
    report = handle.last
    return {
        "name": name,
        "run_seconds": seconds,
        "step_seconds": _by_kind(times, report),
        "peak_gib": peak,
        "ideal_speedup": report.ideal_speedup,
        "computed_share": report.computed_share,
        "cache_gib": gigabytes(report.cache_bytes),
        "cache_policy": report.cache_policy,
        "calls": report.counts(),
        "notes": report.notes,
    }


def _by_kind(times: list[tuple[float, float]], report: Any) -> dict[str, float]:
    """Median seconds of a step by kind; the first step of a run warms up and is left out where there are others."""
    seconds = step_seconds(times)
    kinds = step_kinds(report) if report is not None else ["full"] * len(seconds)
    found: dict[str, list[float]] = {}
    for number, (kind, value) in enumerate(zip(kinds, seconds, strict=True)):
        found.setdefault(kind if number else "first", []).append(value)
    if "full" not in found and "first" in found:
        found["full"] = found["first"]
    return {kind: round(statistics.median(values), 6) for kind, values in found.items() if kind != "first"}


def profile(session: Session) -> dict[str, Any]:
    """Shares of a dense step by phase, from short runs of their own."""
    from astraea.schedules import uniform

    timer = PhaseTimer(session.device)
    base, job = timer.attached(session.model), session.with_steps(PROFILE_STEPS)
    sample(base, job)
    dense = timer.calls()[1:]
    model, handle = accelerated(base, uniform("uniform 0.5", 0.5, sigmas_of(base, job.steps)[:-1]))
    with timer.engine_watched():
        sample(model, job)
    calls = timer.calls()
    step = statistics.median(call["total"] for call in dense)
    kinds = [call.kind for call in handle.last.calls]
    tokens = [call for call, kind in zip(calls, kinds, strict=True) if kind == "token"]
    return {
        "dense_call_seconds": step,
        "dense step": shares(dense, step),
        "full step that records": shares(calls[:1], step),
        "token step at 0.5": shares(tokens, step),
    }


def warm_up(session: Session) -> float:
    """Seconds for choosing attention kernels, few queries and many: once on a machine, so no measured run is to pay."""
    from astraea.schedules import periodic

    job = session.with_steps(WARM_UP_STEPS)
    base = session.model.clone()
    schedule = periodic("warm-up", [0.5, 0.05], sigmas_of(base, job.steps)[:-1], full_start=1)
    model, handle = accelerated(base, schedule)
    sample(model, job)
    return handle.last.tuning_seconds


def fitting_steps(session: Session, share_of_time: float) -> int:
    """As many steps as fit into the share of the time that is left, by one short dense run."""
    model, times = with_call_times(session.model)
    sample(model, session.with_steps(3))
    step = min(step_seconds(times))
    print(f"{session.frames} frames, {session.tokens} tokens: a dense step takes {step:.3f} s", flush=True)
    dense_steps = (session.deadline - time.monotonic()) * share_of_time / step - 2 * PROFILE_STEPS - WARM_UP_STEPS
    return min(session.job.steps, max(MIN_STEPS, int(dense_steps / DENSE_RUNS)))


def measure(session: Session, entry: dict[str, Any], save: Callable[[], None]) -> None:
    """Dense, the candidates, dense again; every row is saved as soon as it is there."""
    found = candidates(sigmas_of(session.model, session.job.steps)[:-1], session.job)
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
        entry["profile"] = profile(session)
        save()


def _compare_with_dense(rows: list[dict[str, Any]]) -> None:
    dense = statistics.fmean(row["run_seconds"] for row in rows if row["name"] == "dense")
    for row in rows:
        row["speedup"] = dense / row["run_seconds"]


def sessions(args: argparse.Namespace, deadline: float) -> Any:
    """One after another: model loaded once, one clip length each."""
    import torch

    size, dtype = (SMALL, torch.float32) if args.small else (WanSize(), torch.bfloat16)
    device = torch.device("cpu" if args.small else "cuda")
    model = load_random_wan(size, dtype, device.type, args.seed)
    positive, negative = (random_context(CONTEXT, args.seed + n) for n in range(2))
    for frames in args.frames:
        height, width = (32, 32) if args.small else (60, 104)
        shape = (1, 16, (frames - 1) // 4 + 1, height, width)
        yield Session(model, frames, Job(shape, positive, negative, args.seed, args.steps, 5.0), deadline, device), size


def start(args: argparse.Namespace) -> Any:
    host = host_process.start(args, cpu=args.small)
    import torch

    if not args.small and not torch.cuda.is_available():
        sys.exit("No GPU that torch can use was found; --small tries this benchmark on the CPU.")
    return host


def main() -> None:
    args = arguments()
    deadline = time.monotonic() + 60 * args.minutes
    host = start(args)
    path = args.out / f"speed_gpu-{host.version}{'-small' if args.small else ''}.json"
    result: dict[str, Any] = {
        "benchmark": "speed_gpu",
        "environment": environment(host, args, "cpu" if args.small else "cuda"),
        "clips": [],
    }

    def save() -> None:
        write_json(path, result)
        path.with_suffix(".md").write_text(speed_gpu_markdown(result), "utf-8")

    for number, (session, size) in enumerate(sessions(args, deadline)):
        steps = fitting_steps(session, 1.0 / (len(args.frames) - number))
        session.job = session.with_steps(steps)
        shape = "x".join(map(str, session.job.shape[2:]))
        result["model"] = f"Wan 2.1 format, random weights, {size.label()}"
        entry = {"frames": session.frames, "latents": shape, "tokens": session.tokens, "steps": steps, "rows": []}
        result["clips"].append(entry)
        entry["choosing_seconds"] = round(warm_up(session), 3)
        measure(session, entry, save)
        show_profile(entry.get("profile", {}))
    print(f"\nwritten: {path} and .md")


def show_profile(found: dict[str, Any]) -> None:
    kinds = [kind for kind in found if isinstance(found[kind], dict)]
    phases = sorted({phase for kind in kinds for phase in found[kind]})
    rows = [
        [phase, *(f"{found[kind][phase]:.2%}" if phase in found[kind] else "" for kind in kinds)] for phase in phases
    ]
    if rows:
        print_table(["share of a dense step", *kinds], rows)


if __name__ == "__main__":
    main()
