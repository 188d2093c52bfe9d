"""Attention on selected rows: does M of N rows cost M/N of the fastest dense attention? Needs torch alone.

    python benchmarks/attention.py              on a GPU, below 8 minutes
    python benchmarks/attention.py --cpu        linearity and torch's own attention beside ours, on a CPU
    python benchmarks/attention.py --small      a trial of the first on the CPU, below two minutes

Ceilings, correctness, speed by shape, whole blocks, passes over rows; predictions are in attention_predictions.py.
Partial results are kept; what the time did not allow is listed.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from attention_block import BlockSize, measure_block, measure_passes
from attention_correctness import correctness
from attention_measure import (
    GPU_SHARES,
    LEAST_ROUNDS,
    ROOT,
    SHARES_WITH_LSE,
    Shape,
    Stopwatch,
    able,
    backend_works,
    ceilings,
    chosen,
    cpu_works,
    dtype_name,
    race,
    rows_of,
    several_inputs,
)
from attention_predictions import CPU_PREDICTIONS, DTYPE, HEAD_DIM, HEADS, TOKENS, predicted
from attention_tables import WRITERS, best_dense, derive_cpu_shape, derive_shape, operations
from environment import environment, write_json
from host_process import Host

from astraea.engine.selection import selected_count
from astraea.kernels import DISPATCHER, autotune_cache
from astraea.kernels.dispatch import ATTENTION_ENV

NO_HOST = Host(ROOT, "none", Path(sys.executable))
ROUNDS, SMALL_ROUNDS = 12, 4
THREADS = 2  # on a CPU; results with others carry the number in their name
PASS_SHARE = 0.5
DENSE_GUESS = 0.3  # of the matmul ceiling, before any attention was timed: for estimates of time only
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
WAN_1_3B, WAN_14B = (
    BlockSize(f"Wan 2.1 {n}", d, f, (21, 30, 52)) for n, d, f in (("1.3B", 1536, 8960), ("14B", 5120, 13824))
)
# What is measured by importance: 480p of 1.3B and 14B first; 118,800 tokens last, as it takes the longest.
GPU_PARTS: tuple[Shape | BlockSize, ...] = (
    Shape(32_760, 12, 128, BF16),
    WAN_1_3B,
    Shape(32_760, 40, 128, BF16),
    WAN_14B,
    Shape(75_600, 40, 128, BF16),
    Shape(14_040, 12, 128, BF16),
    Shape(32_760, 12, 128, FP16),
    Shape(32_760, 24, 64, BF16),
    Shape(118_800, 24, 128, BF16),
)
SMALL_PARTS: tuple[Shape | BlockSize, ...] = (
    Shape(1500, 2, 128, FP32),
    BlockSize("small", 256, 1024, (4, 16, 16)),
    Shape(1000, 2, 64, FP32),
)
CPU_PARTS = (
    Shape(4096, 4, 128, FP32),
    Shape(4096, 4, 64, FP32),
    Shape(8192, 2, 128, FP32),
    Shape(4096, 4, 128, BF16),
    Shape(4096, 4, 128, FP16),
)


@dataclass
class Session:
    """One run: where, until when, what has been found, and where it is kept."""

    device: torch.device
    args: argparse.Namespace
    deadline: float
    path: Path
    result: dict[str, Any]
    rounds: int = ROUNDS
    accurate: dict[tuple[str, str, int], bool] = field(default_factory=dict)

    def save(self) -> None:
        write_json(self.path, self.result)
        self.path.with_suffix(".md").write_text(WRITERS[self.result["benchmark"]](self.result), "utf-8")

    def leave_out(self, name: str, why: str) -> None:
        self.result.setdefault("left_out", {})[name] = why
        print(f"left out: {name}: {why}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cpu", action="store_true", help="the CPU's benchmark instead of the GPU's")
    what.add_argument("--small", action="store_true", help="a trial of the GPU's benchmark on the CPU, float32")
    parser.add_argument(
        "--minutes", type=float, help="default 7, with --cpu 12, with --small 1.5; the rest is left out"
    )
    parser.add_argument("--threads", type=int, default=THREADS, help="torch threads on the CPU (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for JSON and tables")
    args = parser.parse_args()
    args.minutes = args.minutes or (12.0 if args.cpu else 1.5 if args.small else 7.0)
    return args


def begin(args: argparse.Namespace) -> Session:
    deadline = time.monotonic() + 60 * args.minutes
    on_cpu = args.cpu or args.small
    if not on_cpu and not torch.cuda.is_available():
        sys.exit("No GPU that torch can use was found; --small tries this benchmark on the CPU, --cpu measures there.")
    torch.set_num_threads(args.threads)
    if on_cpu:
        # Once a large tensor has been freed, as in any run of a model, the C library keeps freed memory; before that
        # every output is asked of the system anew, and timings are those of page faults.
        torch.ones(31 << 20, dtype=torch.uint8)
    device = torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())
    found = environment(NO_HOST, args, device.type) | {"versions": autotune_cache.versions()}
    slug = re.sub(r"[^a-z0-9]+", "-", (found["gpu"] or "cpu").lower()).strip("-")
    if args.cpu and args.threads != THREADS:
        slug += f"-threads-{args.threads}"
    name = "small" if args.small else slug
    result: dict[str, Any] = {
        "benchmark": "attention_cpu" if args.cpu else "attention",
        "environment": found,
        "shapes": [],
    }
    return Session(
        device, args, deadline, args.out / f"attention-{name}.json", result, SMALL_ROUNDS if args.small else ROUNDS
    )


# --- speed of attention ---------------------------------------------------------------------------------------


def measure_shape(session: Session, shape: Shape, until: float) -> None:
    device, result = session.device, session.result
    inputs = several_inputs(shape, device, session.args.seed)
    found = {need_lse: able(shape.problem(device, need_lse)) for need_lse in (False, True)}
    times, failures = race(
        backend_works({need_lse: backends for need_lse, (backends, _) in found.items()}, inputs),
        Stopwatch(device),
        rounds=session.rounds,
        until=until,
    )
    entry: dict[str, Any] = shape.described() | {"rows": [], "failures": failures, "unavailable": found[False][1]}
    exact = {backend.name: backend.exact for backend in DISPATCHER.backends}
    for row in rows_of(times):
        accurate = session.accurate.get((row["entrant"], dtype_name(shape.dtype), shape.head_dim), True)
        entry["rows"].append(row | {"exact": exact[row["entrant"]], "accurate": accurate})
    entry["choices"] = {
        key: {"backend": choice.backend.name, "why": choice.why, "milliseconds": choice.milliseconds}
        for key, choice in (("without", chosen(shape, inputs[0], False)), ("with", chosen(shape, inputs[0], True)))
    }
    derive_shape(entry, result["ceilings"]["matmul_teraflops"])
    result["shapes"].append(entry)
    best = best_dense(entry)
    if best is not None:
        print(f"  the best dense: {best['entrant']}, {best['ms']:.3g} ms, {best['teraflops']:.3g} TFLOP/s", flush=True)


# --- the parts in turn ----------------------------------------------------------------------------------------


def seconds_needed(session: Session, part: Shape | BlockSize) -> float:
    """A low estimate of what a part takes: its least number of rounds."""
    rates = [row["teraflops"] for shape in session.result["shapes"] for row in shape["rows"] if row["share"] == 1.0]
    rate = statistics.median(rates) if rates else DENSE_GUESS * session.result["ceilings"]["matmul_teraflops"]
    rounds = LEAST_ROUNDS + 2
    if isinstance(part, Shape):
        without, with_lse = (len(able(part.problem(session.device, need_lse))[0]) for need_lse in (False, True))
        calls = without * sum(GPU_SHARES) + with_lse * sum(SHARES_WITH_LSE)
        return rounds * calls * part.operations / rate / 1e12
    block = operations(part.tokens, part.tokens, part.heads, HEAD_DIM)
    block += 2.0 * part.tokens * (6 * part.dim**2 + 2 * part.dim * part.feed_forward)
    return rounds * 4 * 2 * 3.5 * block / rate / 1e12  # calls in a row, eager and graph, all shares and dense


def run_part(session: Session, part: Shape | BlockSize, until: float) -> None:
    if isinstance(part, Shape):
        measure_shape(session, part, until)
        return
    dtype, seed = FP32 if session.device.type == "cpu" else BF16, session.args.seed
    result = session.result
    block = measure_block(part, dtype, session.device, seed, session.rounds, until)
    result.setdefault("blocks", []).append(block)
    session.save()
    found = measure_passes(part.tokens, part.dim, dtype, session.device, PASS_SHARE, seed, session.rounds, until)
    result.setdefault("passes", []).append(found)


def run_parts(
    session: Session, parts: Sequence[Shape | BlockSize], run: Callable[..., None], generosity: float = 1.0
) -> None:
    """One part after another, each with its share of the time that is left; a part that fails costs only itself.

    generosity: how many equal shares a part may use; more than one where the first parts matter most.
    """
    for number, part in enumerate(parts):
        left = session.deadline - time.monotonic()
        needed = seconds_needed(session, part) if run is run_part else 0.0
        if left <= 0.0 or needed > left:
            session.leave_out(
                part.label, "the time was up" if left <= 0.0 else f"needs {needed:.0f} s, {left:.0f} s were left"
            )
            continue
        print(f"{part.label} ({left:.0f} s left)", flush=True)
        until = time.monotonic() + left * min(1.0, generosity / (len(parts) - number))
        try:
            run(session, part, until)
        except Exception as error:  # out of memory on a smaller device, for one
            traceback.print_exc()
            session.leave_out(part.label, f"{type(error).__name__}: {str(error).strip()[:200]}")
        if session.device.type == "cuda":
            torch.cuda.empty_cache()
        session.save()


def run_gpu(session: Session) -> None:
    device, args, result = session.device, session.args, session.result
    main_shape = Shape(TOKENS, HEADS, HEAD_DIM, getattr(torch, DTYPE))
    running = [backend.name for backend in able(main_shape.problem(device, False))[0]]
    queries = {share: selected_count(share, TOKENS) for share in GPU_SHARES if share < 1.0}
    result["predictions"] = predicted(result["environment"]["gpu"] or "", queries, running)
    size, copied = (1024, 64 << 20) if args.small else (8192, 2 << 30)
    result["ceilings"] = ceilings(device, size, copied, args.seed)
    print("matmul {matmul_teraflops:.3g} TFLOP/s, copy {copy_gigabytes:.4g} GB/s".format(**result["ceilings"]))
    session.save()
    result["correctness"] = []
    for dtype, head_dim in ((FP32, 128), (BF16, 128)) if args.small else ((BF16, 128), (FP16, 128), (BF16, 64)):
        result["correctness"] += correctness(dtype, head_dim, device, args.seed)
        print(f"correctness in {dtype_name(dtype)}, heads of {head_dim}: done", flush=True)
        session.save()
    session.accurate = {(r["backend"], r["dtype"], r["head_dim"]): not r["reasons"] for r in result["correctness"]}
    run_parts(session, SMALL_PARTS if args.small else GPU_PARTS, run_part, generosity=2.0)
    again = ceilings(device, size, 64 << 20, args.seed)
    result["ceilings"]["matmul_teraflops_at_end"] = again["matmul_teraflops"]


# --- the CPU's benchmark --------------------------------------------------------------------------------------


def measure_cpu_shape(session: Session, shape: Shape, until: float) -> None:
    inputs = several_inputs(shape, session.device, session.args.seed)
    times, failures = race(
        cpu_works(shape, inputs), Stopwatch(session.device), rounds=session.rounds, until=until, slow=math.inf
    )
    guess = CPU_PREDICTIONS.get((shape.tokens, shape.head_dim, dtype_name(shape.dtype)))
    entry = shape.described() | {"rows": rows_of(times), "failures": failures}
    if guess is not None:
        linearity = {f"{share:g}": value for share, value in guess.linearity.items()}
        entry["prediction"] = vars(guess) | {"linearity": linearity}
    derive_cpu_shape(entry)
    session.result["shapes"].append(entry)


@torch.inference_mode()
def main() -> None:
    args = arguments()
    # What is timed here is not what the user's machine is to remember, and no wish of the user's is to decide.
    os.environ.pop(ATTENTION_ENV, None)
    os.environ[autotune_cache.FOLDER_VARIABLE] = folder = tempfile.mkdtemp(prefix="astraea-attention-")
    try:
        session = begin(args)
        if args.cpu:
            run_parts(session, CPU_PARTS, measure_cpu_shape)
        else:
            run_gpu(session)
        session.save()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nwritten: {session.path} and .md")


if __name__ == "__main__":
    main()
