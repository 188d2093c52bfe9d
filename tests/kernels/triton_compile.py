"""Compiles Triton kernels without a GPU, as a launch would, and reports registers, spills and instructions.

A script, so that each version of Triton has its own process: reads a JSON list of jobs from standard input and prints a
JSON object per job, each on a line. A job is architecture, kind (of `config_for`, or `pool` or `select`), head_dim,
dtype, lse, large and extras; block_m, block_n, warps and stages replace the shipped configuration.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401 - makes the pack importable as `astraea`

WORKERS = 2
MATRIX_SASS = re.compile(r"\b((?:HMMA|IMMA|HGMMA|UTC\w*MMA)[\w.]*)")
MATRIX_AMDGCN = re.compile(r"\b(v_(?:mfma|wmma)_\w+)")


class StandIn:
    """The part of a GPU driver that compiling needs. Kernels are cached by device: each architecture is a device."""

    def __init__(self, architecture: str, large: bool):
        from triton.backends.compiler import GPUTarget

        self.device = (architecture, large)
        if architecture.startswith("sm"):
            self.target = GPUTarget("cuda", int(architecture[2:]), 32)
        else:
            self.target = GPUTarget("hip", architecture, 64 if architecture.startswith("gfx9") else 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device):
        return 0


def attend(job: dict) -> None:
    """Call the launcher of a job's kernel with small tensors on the CPU."""
    import torch

    from astraea.kernels.triton_attention import Config, launch

    launch.architecture_of = lambda device: job["architecture"]
    q, k, v = (torch.zeros(2, 128, 2, job["head_dim"], dtype=dtype_of(job)) for _ in range(3))
    function = launch.attend_tma if job["kind"] == "tma" else launch.attend_pointer
    function = launch.attend_int8 if job["kind"].startswith("int8") else function
    options = {"key_tiles": key_tiles(job)} if job["kind"].endswith("tiles") else {}
    if "block_m" in job:
        config = Config(*(job[name] for name in ("block_m", "block_n", "warps", "stages")))
        launch.config_for = lambda architecture, kind, head_dim: config
    function(q, k, v, scale=0.125, need_lse=job["lse"], **options)


def key_tiles(job: dict):
    """Make lists for the tensors of `attend`; with `extras`, in orders of tokens and with a rest."""
    import torch

    from astraea.kernels.key_tiles import KeyTiles, Orders, Rest

    lists = KeyTiles.from_mask(torch.ones(2, 2, 1, 2).bool())
    if not job["extras"]:
        return lists
    order = torch.arange(128, dtype=torch.int32)[None]
    orders = Orders(order, order.expand(2, 1, 128), torch.zeros(2, dtype=torch.int32))
    return replace(lists, orders=orders, rest=Rest(torch.zeros(2, 2, 1), torch.zeros(2, 2, 1, job["head_dim"])))


def route(job: dict) -> None:
    """Call the launcher of a kernel of routing with small tensors on the CPU."""
    import torch

    from astraea.kernels.triton_attention import routing_kernels

    if job["kind"] == "pool":
        x = torch.zeros(2, 300, 2, job["head_dim"], dtype=dtype_of(job))
        rows = torch.zeros(2, 2, 300, dtype=torch.int32) if job["extras"] else None
        routing_kernels.tile_means(x, 128, rows)
    else:
        routing_kernels.select_tiles(torch.zeros(2, 2, 3, 4000), torch.ones(2, dtype=torch.int32), 100, 1)


def dtype_of(job: dict):
    import torch

    return {"fp16": torch.float16, "bf16": torch.bfloat16}[job["dtype"]]


def compile_job(job: dict) -> dict:
    """Return the job with `error`, or with the facts of all its kernels; registers are those of the last kernel."""
    import triton
    from triton.runtime.jit import JITFunction

    kernels, run = [], JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **options):
        kernels.append(run(self, *arguments, grid=grid, warmup=True, **options))

    # For tensors below 2 GiB AMD's compiler uses other instructions; a test cannot hold larger tensors.
    triton.knobs.amd.use_buffer_ops = not job["large"]
    triton.runtime.driver.set_active(StandIn(job["architecture"], job["large"]))
    JITFunction.run = compile_only
    result, start = job | {"triton": triton.__version__}, time.perf_counter()
    try:
        route(job) if job["kind"] in ("pool", "select") else attend(job)
    except Exception as error:  # anything that the compiler raises is the result
        return result | {"error": f"{type(error).__name__}: {error}"}
    finally:
        JITFunction.run = run
    facts = [facts_of(kernel.asm) for kernel in kernels]
    return result | {
        "seconds": round(time.perf_counter() - start, 2),
        "shared": max(kernel.metadata.shared for kernel in kernels),
        "registers": facts[-1]["registers"],
        "spills": sum(fact["spills"] for fact in facts),
        "matrix": sorted(set().union(*(fact["matrix"] for fact in facts))),
        "narrow": [product for kernel in kernels for product in narrow_products(kernel.asm["ttir"])],
    }


def narrow_products(ttir: str) -> list[str]:
    """Return the products of two variables in 32 bits: a product of a row or head and a stride would overflow."""
    constants = set(re.findall(r"(%\w+) = arith\.constant", ttir))
    products = re.findall(r"(\S+ = arith\.muli (%\w+), (%\w+) : (?:i32|tensor<\w+xi32>))", ttir)
    return [text for text, a, b in products if not {a, b} & constants]


def facts_of(asm: dict) -> dict:
    return amd_facts(asm["amdgcn"]) if "amdgcn" in asm else nvidia_facts(asm["cubin"])


def nvidia_facts(code: bytes) -> dict:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(code)
        usage, sass = (
            subprocess.run([tool, option, cubin], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    return {
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "spills": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "matrix": set(MATRIX_SASS.findall(sass)),
    }


def amd_facts(text: str) -> dict:
    keys = ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
    numbers = {key: int(re.findall(rf"\.{key}:\s+(\d+)", text)[0]) for key in keys}
    return {
        "registers": numbers.pop("vgpr_count"),
        "spills": sum(numbers.values()),
        "matrix": set(MATRIX_AMDGCN.findall(text)),
    }


def main() -> None:
    jobs = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        with ProcessPoolExecutor(WORKERS) as pool:
            for result in pool.map(compile_job, jobs):
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
