"""Compiles attention kernels ahead of time, without a GPU, and reports what the compiler made of them.

A script, so that each version of Triton has a process of its own: reads a JSON list of jobs from standard input and
prints one JSON object a line for each. A job is architecture, kind, head_dim, dtype and lse; block_m, block_n, warps
and stages replace the shipped configuration.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401 - makes the pack importable as `astraea`

FLOATS = {"factor"}
INTS = {"queries", "keys", "heads", "query_tiles", "list_length", "count"}
POINTERS_TO = {
    "*fp32": {"lse", "q_scales", "k_scales", "v_scales", "shift", "scales", "offset", "direction", "projection"},
    "*i8": {"q_codes", "k_codes", "codes"},
    "*i32": {"counts", "tiles"},
}
MATRIX_SASS = re.compile(r"\b((?:HMMA|IMMA|HGMMA|UTC\w*MMA)[\w.]*)")
MATRIX_AMDGCN = re.compile(r"\b(v_(?:mfma|wmma)_\w+)")


def kernel_of(job: dict):
    """The kernel of a job, its compile-time arguments and its configuration."""
    from astraea.kernels.key_tiles import KEY_TILE, QUERY_TILE
    from astraea.kernels.triton_attention import Config, config_for, forward, forward_tma, int8
    from astraea.kernels.triton_attention.configs import QUANTISE

    kind, constants = job["kind"], {"HEAD_DIM": job["head_dim"]}
    if kind == "quantise":
        # Of queries if the log-sum-exp is asked for, else of keys.
        constants |= {"BLOCK": QUANTISE.block_m}
        constants |= {"offset": None} if job["lse"] else {"direction": None, "projection": None}
        return int8.quantise_rows, constants, QUANTISE
    config = config_for(job["architecture"], kind, job["head_dim"])
    if "block_m" in job:
        config = Config(job["block_m"], job["block_n"], job["warps"], job["stages"])
    constants |= {"BLOCK_M": config.block_m, "BLOCK_N": config.block_n}
    if not job["lse"]:
        constants |= {"lse": None, "shift": None} if kind == "int8" else {"lse": None}
    if kind == "int8":
        return int8.attend_forward_int8, constants, config
    if kind == "tma":
        return forward_tma.attend_forward_tma, constants, config
    constants |= {"QUERY_TILE": QUERY_TILE, "KEY_TILE": KEY_TILE}
    if kind == "pointer":
        constants |= {"counts": None, "tiles": None}
    return forward.attend_forward, constants, config


def type_of(name: str, job: dict, block_n: int) -> str:
    """The type of an argument, as a launch would find it."""
    if name.endswith("_descriptor"):
        return f"tensordesc<{job['dtype']}[1, {block_n}, 1, {job['head_dim']}]>"
    if name in FLOATS:
        return "fp32"
    if name in INTS or "stride_" in name:
        return "i32"
    for pointer, names in POINTERS_TO.items():
        if name in names:
            return pointer
    return "*fp16" if job["kind"] == "int8" and name == "v" else f"*{job['dtype']}"


def compile_job(job: dict) -> dict:
    """The job with what came of it: `error`, or seconds, shared (bytes), registers, spills, matrix and narrow."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from astraea.kernels.triton_attention.configs import options

    kernel, constants, config = kernel_of(job)
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name, job, config.block_n) for name in names}
    # What a launch specialises on: addresses and strides divisible by 16.
    divisible = [idx for idx, name in enumerate(names) if signature[name].startswith("*") or "stride_" in name]
    source = ASTSource(kernel, signature, constants, {(idx,): [["tt.divisibility", 16]] for idx in divisible})
    architecture = job["architecture"]
    if architecture.startswith("sm"):
        target, facts = GPUTarget("cuda", int(architecture[2:]), 32), nvidia_facts
    else:
        target, facts = GPUTarget("hip", architecture, 64 if architecture.startswith("gfx9") else 32), amd_facts
    result = job | {
        "triton": triton.__version__,
        "config": [config.block_m, config.block_n, config.warps, config.stages],
    }
    start = time.perf_counter()
    try:
        compiled = triton.compile(source, target, options(config))
    except Exception as error:  # whatever a compiler raises is what is asked for
        return result | {"error": f"{type(error).__name__}: {error}"}
    result |= {"seconds": round(time.perf_counter() - start, 2), "shared": compiled.metadata.shared}
    return result | {"narrow": narrow_products(compiled.asm["ttir"])} | facts(compiled.asm)


def narrow_products(ttir: str) -> list[str]:
    """Products of two variables in 32 bits. One of a row or a head and a stride would overflow."""
    constants = set(re.findall(r"(%\w+) = arith\.constant", ttir))
    products = re.findall(r"(\S+ = arith\.muli (%\w+), (%\w+) : (?:i32|tensor<\w+xi32>))", ttir)
    return [text for text, a, b in products if not {a, b} & constants]


def nvidia_facts(asm: dict) -> dict:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(asm["cubin"])
        usage, sass = (
            subprocess.run([tool, option, cubin], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    return {
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "spills": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "matrix": sorted(set(MATRIX_SASS.findall(sass))),
    }


def amd_facts(asm: dict) -> dict:
    text = asm["amdgcn"]
    keys = ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size")
    numbers = {key: int(re.findall(rf"\.{key}:\s+(\d+)", text)[0]) for key in keys}
    return {
        "registers": numbers.pop("vgpr_count"),
        "spills": sum(numbers.values()),
        "matrix": sorted(set(MATRIX_AMDGCN.findall(text))),
    }


def main() -> None:
    jobs = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        with ProcessPoolExecutor(2) as pool:
            for result in pool.map(compile_job, jobs):
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
