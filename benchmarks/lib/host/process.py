"""Brings a ComfyUI and the pack into this process. Nothing of either is imported before `start` or `load_pack`.

One host version per process. The user's installation is not changed: its folders are a temporary base directory.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ..results import RESULTS, ROOT

sys.path.insert(0, str(ROOT / "tests"))
from hosts import HOW_TO, Host, bootstrap, find_hosts, host_at

STARTED = "ASTRAEA_BENCHMARK_STARTED"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every benchmark in a host has."""
    parser.add_argument("--comfyui", type=Path, metavar="TREE", help="ComfyUI folder (default: the first one found)")
    add_common_arguments(parser)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of benchmarks that need torch alone."""
    parser.add_argument("--threads", type=int, default=2, help="torch threads on the CPU (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="offset of all seeds (default 0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for JSON and tables")


def chosen_host(tree: Path | None) -> Host:
    """The host to measure in. Exits with instructions if there is none."""
    if tree is None:
        try:
            found = find_hosts()
        except ValueError as error:
            sys.exit(str(error))
        if not found:
            sys.exit(f"No ComfyUI was found.\n{HOW_TO}")
        return found[0]
    tree = tree.expanduser().resolve()
    if not bootstrap.is_comfyui(tree):
        sys.exit(f"{tree} is no ComfyUI folder (no main.py with comfyui_version.py).")
    return host_at(tree)


def start(args: argparse.Namespace, *, cpu: bool) -> Host:
    """Makes `import comfy` work as inside main.py, and `import astraea` give the pack.

    Restarts the script with the host's own Python if this is another one.
    """
    host = chosen_host(args.comfyui)
    if Path(sys.executable) != host.python and STARTED not in os.environ:
        done = subprocess.call([str(host.python), *sys.argv], env=os.environ | {STARTED: "1"})
        sys.exit(done)
    base = tempfile.mkdtemp(prefix="astraea-benchmark-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    sys.dont_write_bytecode = True
    flags = [*(["--cpu"] if cpu else []), "--use-pytorch-cross-attention", "--base-directory", base]
    bootstrap.start_comfyui(host.tree, flags)
    importlib.import_module("comfy.sample")
    importlib.import_module("comfy.sd")
    importlib.import_module("torch").set_num_threads(args.threads)
    load_pack()
    return host


def start_gpu(args: argparse.Namespace) -> Host:
    """`start` on the GPU, or on the CPU for a `--small` trial. Exits if torch has no GPU."""
    host = start(args, cpu=args.small)
    if not args.small and not importlib.import_module("torch").cuda.is_available():
        sys.exit("No GPU that torch can use was found; --small tries this benchmark on the CPU.")
    return host


def load_pack() -> None:
    """Imports the pack as `astraea`, once: its folder may have any name."""
    if bootstrap.PACK not in sys.modules:
        bootstrap.load_pack()
