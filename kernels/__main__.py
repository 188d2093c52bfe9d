"""Prints the attention backends of this machine: `python kernels` from the pack's folder, with ComfyUI's own Python.

python kernels [--device cuda] [--dtype bfloat16] [--tokens 32760] [--heads 12] [--head-dim 128] [--fresh]
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

# The pack's folder in place of this one, whose module names could hide installed ones; `load_pack` takes it off again.
sys.path[0] = str(Path(__file__).resolve().parents[1])
from bootstrap import PACK, load_pack  # noqa: E402


def parse_arguments(default_device: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=default_device)
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--tokens", type=int, help="keys; half as many queries (default 32760, on a CPU 4096)")
    parser.add_argument("--heads", type=int, help="default 12, on a CPU 2")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--fresh", action="store_true", help="delete the choices saved for this machine first")
    return parser.parse_args()


def main() -> None:
    load_pack()
    import torch

    args = parse_arguments("cuda" if torch.cuda.is_available() else "cpu")
    kernels = importlib.import_module(f"{PACK}.kernels")
    diagnose = importlib.import_module(f"{PACK}.kernels.diagnose")
    logging.getLogger().setLevel(logging.WARNING)
    device = torch.device(args.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    small = device.type == "cpu"
    dtype = getattr(torch, args.dtype or ("float32" if small else "bfloat16"))
    tokens, heads = args.tokens or (4096 if small else 32760), args.heads or (2 if small else 12)
    if args.fresh:
        importlib.import_module(f"{PACK}.kernels.autotune_cache").path().unlink(missing_ok=True)
    for need_lse in (False, True):
        problem = kernels.Problem(device, dtype, 1, max(1, tokens // 2), tokens, heads, args.head_dim, need_lse)
        print(diagnose.format_table(diagnose.explain(kernels.DISPATCHER, problem)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
