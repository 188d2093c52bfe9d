"""Brings a ComfyUI and the pack into this process. Nothing of either is imported before `start`.

One host version per process; the user's installation stays as it was (its folders are a temporary base directory).
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from hosts import HOW_TO, Host, bootstrap, find_hosts, host_at  # noqa: E402

PACK = "astraea"
STARTED = "ASTRAEA_BENCHMARK_STARTED"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--comfyui", type=Path, metavar="TREE", help="ComfyUI folder (default: the first one found)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads on the CPU (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="offset of all seeds (default 0)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for JSON and tables")


def chosen_host(tree: Path | None) -> Host:
    """The host to measure in. Exits with what to do when there is none."""
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
    """Make `import comfy` work as inside main.py, and `import astraea` give the pack.

    Starts the script again with the host's own Python when this one is another.
    """
    host = chosen_host(args.comfyui)
    if Path(sys.executable) != host.python and STARTED not in os.environ:
        done = subprocess.call([str(host.python), *sys.argv], env=os.environ | {STARTED: "1"})
        sys.exit(done)
    base = tempfile.mkdtemp(prefix="astraea-benchmark-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    sys.dont_write_bytecode = True
    sys.argv = ["main.py", *(["--cpu"] if cpu else []), "--use-pytorch-cross-attention", "--base-directory", base]
    sys.path.insert(0, str(host.tree))
    importlib.import_module("comfy.options").enable_args_parsing()
    importlib.import_module("comfy.sample")
    importlib.import_module("comfy.sd")
    importlib.import_module("torch").set_num_threads(args.threads)
    _load_pack()
    return host


def _load_pack() -> None:
    """As ComfyUI does, under a name of our own: the pack's folder may be called anything."""
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
