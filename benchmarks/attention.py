"""Attention on selected rows: do M of N rows cost M/N of the fastest dense attention? Needs torch alone.

    python benchmarks/attention.py              on a GPU, below 8 minutes
    python benchmarks/attention.py --cpu        linearity and torch's own attention on the same rows, on a CPU
    python benchmarks/attention.py --small      a trial of the first on the CPU, below two minutes

Ceilings, accuracy, speed by shape, whole blocks. Partial results are kept; parts that did not fit
into the time are listed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lib.host.environment import environment
from lib.host.process import Host, add_common_arguments, load_pack
from lib.results import ROOT

NO_HOST = Host(ROOT, "none", Path(sys.executable))
ROUNDS, SMALL_ROUNDS = 12, 4
THREADS = 2  # on a CPU; the results of other numbers have the number in their name


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cpu", action="store_true", help="the CPU's benchmark instead of the GPU's")
    what.add_argument("--small", action="store_true", help="a trial of the GPU's benchmark on the CPU, float32")
    parser.add_argument(
        "--minutes", type=float, help="default 7, with --cpu 12, with --small 1.5; the rest is left out"
    )
    add_common_arguments(parser)
    args = parser.parse_args()
    args.minutes = args.minutes or (12.0 if args.cpu else 1.5 if args.small else 7.0)
    return args


def begin(args: argparse.Namespace) -> Any:
    """The session: device, deadline and an empty result."""
    from lib.attention.session import Session

    from astraea.kernels import autotune_cache

    deadline = time.monotonic() + 60 * args.minutes
    on_cpu = args.cpu or args.small
    if not on_cpu and not torch.cuda.is_available():
        sys.exit("No GPU that torch can use was found; --small tries this benchmark on the CPU, --cpu measures there.")
    torch.set_num_threads(args.threads)
    if on_cpu:
        # Once a large tensor has been freed, as in any run of a model, the C library keeps freed memory. Before that,
        # every output is allocated by the system, and timings are those of page faults.
        torch.ones(31 << 20, dtype=torch.uint8)
    device = torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())
    found = environment(NO_HOST, args, device.type) | {"versions": autotune_cache.versions()}
    slug = re.sub(r"[^a-z0-9]+", "-", (found["gpu"] or "cpu").lower()).strip("-")
    if args.cpu and args.threads != THREADS:
        slug += f"-threads-{args.threads}"
    path = args.out / f"attention-{'small' if args.small else slug}.json"
    result = {"benchmark": "attention_cpu" if args.cpu else "attention", "environment": found, "shapes": []}
    return Session(device, args, deadline, path, result, SMALL_ROUNDS if args.small else ROUNDS)


@torch.inference_mode()
def main() -> None:
    args = arguments()
    load_pack()
    from lib.attention.session import run_cpu, run_gpu

    from astraea.kernels import autotune_cache
    from astraea.kernels.dispatch import ATTENTION_ENV

    # The benchmark neither writes to the user's record of timings nor follows the user's choice of a backend.
    os.environ.pop(ATTENTION_ENV, None)
    os.environ[autotune_cache.FOLDER_VARIABLE] = folder = tempfile.mkdtemp(prefix="astraea-attention-")
    try:
        session = begin(args)
        (run_cpu if args.cpu else run_gpu)(session)
        session.save()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nwritten: {session.path} and .md")


if __name__ == "__main__":
    main()
