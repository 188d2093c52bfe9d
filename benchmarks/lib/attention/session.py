"""The parts of the attention benchmark, one after another within its time. Import after the pack was loaded."""

from __future__ import annotations

import argparse
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from astraea.kernels import DISPATCHER

from ..results import write_json
from .block import BlockSize, measure_block
from .measure import (
    Shape,
    Stopwatch,
    able,
    accuracy,
    backend_works,
    ceilings,
    chosen,
    cpu_works,
    race,
    rows_of,
    several_inputs,
)
from .tables import WRITERS, best_dense, derive_cpu_shape, derive_shape

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
WAN_1_3B, WAN_14B = (
    BlockSize(f"Wan 2.1 {n}", d, f, (21, 30, 52)) for n, d, f in (("1.3B", 1536, 8960), ("14B", 5120, 13824))
)
# By importance: 480p of 1.3B and 14B first; 118,800 tokens last, as it takes the longest.
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
    """One run: device, deadline, result and its file."""

    device: torch.device
    args: argparse.Namespace
    deadline: float
    path: Path
    result: dict[str, Any]
    rounds: int

    def save(self) -> None:
        write_json(self.path, self.result)
        self.path.with_suffix(".md").write_text(WRITERS[self.result["benchmark"]](self.result), "utf-8")

    def leave_out(self, name: str, why: str) -> None:
        self.result.setdefault("left_out", {})[name] = why
        print(f"left out: {name}: {why}", flush=True)


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
        entry["rows"].append(row | {"exact": exact[row["entrant"]]})
    entry["choices"] = {
        key: {"backend": choice.backend.name, "why": choice.why, "milliseconds": choice.milliseconds}
        for key, choice in (("without", chosen(shape, inputs[0], False)), ("with", chosen(shape, inputs[0], True)))
    }
    derive_shape(entry, result["ceilings"]["matmul_teraflops"])
    result["shapes"].append(entry)
    best = best_dense(entry)
    if best is not None:
        print(f"  the best dense: {best['entrant']}, {best['ms']:.3g} ms, {best['teraflops']:.3g} TFLOP/s", flush=True)


def run_part(session: Session, part: Shape | BlockSize, until: float) -> None:
    if isinstance(part, Shape):
        measure_shape(session, part, until)
        return
    dtype = FP32 if session.device.type == "cpu" else BF16
    block = measure_block(part, dtype, session.device, session.args.seed, session.rounds, until)
    session.result.setdefault("blocks", []).append(block)


def run_parts(
    session: Session, parts: Sequence[Shape | BlockSize], run: Callable[..., None], generosity: float = 1.0
) -> None:
    """Runs one part after another, each with its share of the remaining time; a failure costs only its own part.

    generosity: the number of equal shares a part may use; more than one if the first parts matter most.
    """
    for number, part in enumerate(parts):
        left = session.deadline - time.monotonic()
        if left <= 0.0:
            session.leave_out(part.label, "the time was up")
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
    size, copied = (1024, 64 << 20) if args.small else (8192, 2 << 30)
    result["ceilings"] = ceilings(device, size, copied, args.seed)
    print("matmul {matmul_teraflops:.3g} TFLOP/s, copy {copy_gigabytes:.4g} GB/s".format(**result["ceilings"]))
    result["correctness"] = []
    for dtype, head_dim in ((FP32, 128),) if args.small else ((BF16, 128), (FP16, 128), (BF16, 64)):
        result["correctness"] += accuracy(dtype, head_dim, device)
    session.save()
    run_parts(session, SMALL_PARTS if args.small else GPU_PARTS, run_part, generosity=2.0)
    again = ceilings(device, size, 64 << 20, args.seed)
    result["ceilings"]["matmul_teraflops_at_end"] = again["matmul_teraflops"]


def run_cpu(session: Session) -> None:
    run_parts(session, CPU_PARTS, measure_cpu_shape)


def measure_cpu_shape(session: Session, shape: Shape, until: float) -> None:
    inputs = several_inputs(shape, session.device, session.args.seed)
    times, failures = race(
        cpu_works(shape, inputs), Stopwatch(session.device), rounds=session.rounds, until=until, slow=math.inf
    )
    entry = shape.described() | {"rows": rows_of(times), "failures": failures}
    derive_cpu_shape(entry)
    session.result["shapes"].append(entry)
