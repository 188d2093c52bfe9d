"""Speed of sparse attention: kernels over lists, finding the lists, whole blocks, and a whole model where a ComfyUI is.

    python benchmarks/sparse_speed.py [--comfyui TREE]    on a GPU, below 8 minutes
    python benchmarks/sparse_speed.py --cpu               the CPU's backend for lists against dense attention
    python benchmarks/sparse_speed.py --small             a trial of the first on the CPU, about a minute

Predictions come first in the result. Partial results are kept; parts that did not fit into the time are listed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.results import ROOT

NO_HOST = process.Host(ROOT, "none", Path(sys.executable))
ROUNDS, SMALL_ROUNDS = 12, 4
THREADS = 2  # on a CPU; the results of other numbers have the number in their name
MODEL_DENSITIES = (0.3, 0.5)
FRAMES, SMALL_FRAMES = 81, 17
STEPS, SMALL_STEPS = 10, 10  # the first dense, a choice at the second, sixth and tenth: one in four of the last eight
FIRST_COUNTED = 2


@dataclass(frozen=True)
class WholeModel:
    """The part that needs a ComfyUI."""

    label: str = "the whole model"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cpu", action="store_true", help="the CPU's benchmark instead of the GPU's")
    what.add_argument("--small", action="store_true", help="a trial of the GPU's benchmark on the CPU, float32")
    parser.add_argument("--minutes", type=float, help="default 7, with --cpu 12, with --small 3; the rest is left out")
    process.add_arguments(parser)
    args = parser.parse_args()
    args.minutes = args.minutes or (12.0 if args.cpu else 3.0 if args.small else 7.0)
    return args


def start(args: argparse.Namespace) -> process.Host:
    """The pack, inside a ComfyUI where there is one; the CPU's benchmark needs none."""
    if not args.cpu and (args.comfyui is not None or process.find_hosts()):
        return process.start_gpu(args)
    process.load_pack()
    return NO_HOST


def begin(args: argparse.Namespace, host: process.Host, deadline: float) -> Any:
    """The session: device, deadline and a result that holds nothing but predictions."""
    import torch
    from lib.sparse.speed import SparseSession
    from lib.sparse.speed_tables import predictions_for

    from astraea.kernels import autotune_cache

    on_cpu = args.cpu or args.small
    if not on_cpu and not torch.cuda.is_available():
        sys.exit("No GPU that torch can use was found; --small tries this benchmark on the CPU, --cpu measures there.")
    torch.set_num_threads(args.threads)
    if on_cpu:
        # Freed once, so that the C library keeps freed memory from then on: see attention.py.
        torch.ones(31 << 20, dtype=torch.uint8)
    device = torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())
    found = environment(host, args, device.type) | {"versions": autotune_cache.versions()}
    slug = re.sub(r"[^a-z0-9]+", "-", (found["gpu"] or "cpu").lower()).strip("-")
    if args.cpu and args.threads != THREADS:
        slug += f"-threads-{args.threads}"
    path = args.out / f"sparse_speed-{'small' if args.small else slug}.json"
    result = {
        "benchmark": "sparse_speed_cpu" if args.cpu else "sparse_speed",
        "environment": found,
        "predictions": predictions_for(found["gpu"]),
        "shapes": [],
    }
    session = SparseSession(device, args, deadline, path, result, SMALL_ROUNDS if args.small else ROUNDS)
    session.save()
    return session


def measure_model(session: Any) -> None:
    """Calls of a model of random weights, dense and with the node's sparse attention, one sampler run each.

    Random heads differ from those of a real model: without the limit, so that they keep the density that was asked for.
    """
    from lib.host.harness import sample
    from lib.host.random_wan import job_480p, load_wan_480p
    from lib.sparse.speed_tables import derive_model

    small = session.args.small
    frames, steps = (SMALL_FRAMES, SMALL_STEPS) if small else (FRAMES, STEPS)
    model, description = load_wan_480p(small=small, seed=session.args.seed)
    job = job_480p(frames, steps, 1.0, small=small, seed=session.args.seed)  # guidance 1: one call per step
    tokens = job.shape[2] * job.shape[3] * job.shape[4] // 4
    found: dict[str, Any] = {"description": description, "frames": frames, "tokens": tokens, "steps": steps, "rows": []}
    session.result["model"] = found
    warm, _ = sparse_model(model, MODEL_DENSITIES[0])
    sample(warm, job)  # loads, compiles and chooses kernels
    for density in (1.0, *MODEL_DENSITIES, 1.0):
        if time.monotonic() > session.deadline:
            session.leave_out(f"{WholeModel().label}, density {density:g}", "the time was up")
            continue
        found["rows"].append(model_row(session, model, job, density))
        derive_model(found, session.result["predictions"])
        session.save()
    for row in found["rows"]:
        predicted = "" if row["predicted"] is None else f" (predicted {row['predicted']:.2f})"
        print(f"  {row['name']:14} {row['seconds']:8.4f} s per call, {row['speedup']:.2f}x{predicted}", flush=True)


def model_row(session: Any, model: Any, job: Any, density: float) -> dict[str, Any]:
    """Mean seconds of a call in one run, a choice at every fourth included; peak memory."""
    from lib.host.harness import sample, step_seconds, with_call_times
    from lib.host.random_wan import with_peak_memory

    timed, times = with_call_times(model)
    timed, handle = sparse_model(timed, density) if density < 1.0 else (timed, None)
    _, peak = with_peak_memory(session.device, lambda: sample(timed, job))
    seconds = step_seconds(times)
    counted = seconds[FIRST_COUNTED:]
    row: dict[str, Any] = {"name": "dense" if handle is None else f"density {density:g}", "density": density}
    row |= {"seconds": statistics.fmean(counted), "step_seconds": [round(s, 6) for s in seconds], "peak_gib": peak}
    if handle is not None:
        sparse = handle.last.sparse or {}
        row["seconds_without_choice"] = statistics.median(counted)
        row |= {name: sparse.get(name) for name in ("computed_share", "error", "line")}
    return row


def sparse_model(model: Any, density: float) -> tuple[Any, Any]:
    """A clone with the node's sparse attention, sparse from the second step, and the handle of its reports."""
    from astraea.engine.report import ReportHandle
    from astraea.engine.sparse.plan import OWN, SparsePlan
    from astraea.host.sampling.sparse import attend_sparsely

    handle = ReportHandle()
    plan = SparsePlan(density=density, dense_start=0.0, limit=0.0, min_tokens=0, kernel=OWN)
    return attend_sparsely(model, plan, handle), handle


def run(session: Any, host: process.Host) -> None:
    """All parts by importance: the most usual size, the whole model, then the others."""
    from lib.attention.session import run_parts
    from lib.sparse.speed import CPU_PARTS, GPU_PARTS, SMALL_PARTS, run_part

    def run_any(session: Any, part: Any, until: float) -> None:
        if isinstance(part, WholeModel):
            measure_model(session)
        else:
            run_part(session, part, until)

    if session.args.cpu:
        run_parts(session, CPU_PARTS, run_any)
        return
    first, *others = SMALL_PARTS if session.args.small else GPU_PARTS
    if host is NO_HOST:
        session.leave_out(WholeModel().label, "no ComfyUI was found")
        run_parts(session, (first, *others), run_any, generosity=2.0)
    else:
        run_parts(session, (first, WholeModel(), *others), run_any, generosity=2.0)  # type: ignore[arg-type]


def main() -> None:
    args = arguments()
    deadline = time.monotonic() + 60 * args.minutes
    host = start(args)
    import torch

    from astraea.kernels import autotune_cache
    from astraea.kernels.dispatch import ATTENTION_ENV

    # The benchmark neither writes to the user's record of timings nor follows the user's choice of a backend.
    os.environ.pop(ATTENTION_ENV, None)
    os.environ[autotune_cache.FOLDER_VARIABLE] = folder = tempfile.mkdtemp(prefix="astraea-sparse-speed-")
    try:
        with torch.inference_mode():
            session = begin(args, host, deadline)
            run(session, host)
            session.save()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nwritten: {session.path} and .md")


if __name__ == "__main__":
    main()
