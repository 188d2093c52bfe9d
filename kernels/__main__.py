"""Prints what attention this machine has: `python kernels` from the pack's folder, with ComfyUI's own Python.

python kernels [--device cuda] [--dtype bfloat16] [--tokens 32760] [--heads 12] [--head-dim 128] [--fresh]
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

NAME = "astraea_kernels"


def package() -> ModuleType:
    """This folder as a package under a name of its own: run as a folder it is none."""
    folder = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {folder}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


def arguments(default_device: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=default_device)
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--tokens", type=int, help="keys; half as many queries (default 32760, on a CPU 4096)")
    parser.add_argument("--heads", type=int, help="default 12, on a CPU 2")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--fresh", action="store_true", help="forget the choices kept for this machine first")
    return parser.parse_args()


def main() -> None:
    # A folder that is run is on the path first: its module names must not hide installed ones.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    import torch

    args = arguments("cuda" if torch.cuda.is_available() else "cpu")
    kernels = package()
    diagnose = importlib.import_module(f"{NAME}.diagnose")
    autotune_cache = importlib.import_module(f"{NAME}.autotune_cache")
    logging.getLogger().setLevel(logging.WARNING)
    device = torch.device(args.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    small = device.type == "cpu"
    dtype = getattr(torch, args.dtype or ("float32" if small else "bfloat16"))
    tokens, heads = args.tokens or (4096 if small else 32760), args.heads or (2 if small else 12)
    if args.fresh:
        autotune_cache.path().unlink(missing_ok=True)
    for need_lse in (False, True):
        problem = kernels.Problem(device, dtype, 1, max(1, tokens // 2), tokens, heads, args.head_dim, need_lse)
        print(diagnose.as_text(diagnose.explain(kernels.DISPATCHER, problem)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
