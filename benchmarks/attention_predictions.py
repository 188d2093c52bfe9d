"""What the attention benchmark is expected to show, written down before anything was measured on the device.

Each figure is a public rate of the device times a share of it that is argued for beside it. A benchmark whose result
nobody had expected teaches more than one that was only read. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TOKENS, HEADS, HEAD_DIM, DTYPE = 32_760, 12, 128, "bfloat16"  # the shape that predictions are made for


@dataclass(frozen=True)
class Device:
    """Public figures of a GPU.

    names: a pattern for what torch calls it; processors: streaming multiprocessors; matmul: peak dense bf16 with fp32
    sums, TFLOP/s; bandwidth: of its memory, GB/s.
    """

    family: str
    names: str
    processors: int
    matmul: float
    bandwidth: float


# Variants with other clocks or fewer processors (PCIe, NVL, D, laptops, MIG slices) are no members of a family.
DEVICES = (
    Device("H100", r"H100 80GB HBM3$|H100 SXM5", 132, 989.0, 3350.0),
    Device("H200", r"H200$", 132, 989.0, 4800.0),
    Device("A100", r"A100-(SXM4|PCIE|PCIe)-80GB$|A100 80GB PCIe$", 108, 312.0, 2000.0),
    Device("RTX 4090", r"RTX 4090$", 128, 165.0, 1008.0),
    Device("RTX 5090", r"RTX 5090$", 170, 210.0, 1792.0),
    Device("RTX 3090", r"RTX 3090$", 82, 71.0, 936.0),
)
# Large products reach 0.7 of Hopper's peak (it lowers its clock under random data) and 0.85 of the A100's; GeForce
# cards run above the clock that theirs is stated for, which makes good what they lose. A copy reaches 0.88 of the
# memory's rate.
MATMUL_SHARE = {"H100": 0.70, "H200": 0.70, "A100": 0.85}
MATMUL_SHARE_ELSEWHERE = 1.0
COPY_SHARE = 0.88


@dataclass(frozen=True)
class Prediction:
    """teraflops: all queries over all keys, without log-sum-exp; tile: queries of one program; resident: programs that
    share a processor. Linearity follows from the last two (`waves`), the ratio from the fastest exact backend.

    FA2's 4 warps of 255 registers fit a processor twice; 8 warps of 200, as Triton compiles, once.
    """

    teraflops: float
    tile: int = 128
    resident: int = 1
    exact: bool = True


def _hopper() -> dict[str, Prediction]:
    """Shares of 989 TFLOP/s. Published for long rows and heads of 128: 0.64 for FA3 (its tile of 128 × 2 warpgroups),
    0.60 for cuDNN, 0.35 for FA2, which knows no warpgroup products, 0.48 for a stock Triton kernel with TMA. Pointer
    loads cost a Triton kernel registers and address arithmetic: 0.40. The efficient kernel is Ampere code with fp32
    sums through shared memory: 0.18. torch's own choice is FA2. SageAttention has no such published figure here: 8-bit
    scores at twice the rate, half of the operations, at cuDNN's share: 0.60."""
    shares = {
        "flash-attn-3": Prediction(0.64),
        "cudnn": Prediction(0.60),
        "flash": Prediction(0.35, resident=2),
        "flash-attn": Prediction(0.35, resident=2),
        "sdpa": Prediction(0.35, resident=2),
        "triton-tma": Prediction(0.48),
        "triton": Prediction(0.40),
        "efficient": Prediction(0.18, tile=64, resident=2),
        "sage": Prediction(0.60, exact=False),
    }
    return _times(989.0, shares)


def _ampere() -> dict[str, Prediction]:
    """Shares of 312: FA2's paper shows 0.70 at heads of 128; Triton reaches nine tenths of it. int8: 624 for
    the scores, 312 for the sums, so 416 together, of which quantising tiles leaves 0.45."""
    shares = {
        "cudnn": Prediction(0.70),
        "flash": Prediction(0.70, resident=2),
        "flash-attn": Prediction(0.70, resident=2),
        "sdpa": Prediction(0.70, resident=2),
        "triton": Prediction(0.62),
        "efficient": Prediction(0.45, tile=64, resident=2),
        "triton-int8": Prediction(0.45 * 416 / 312, exact=False),
        "sage": Prediction(0.50 * 416 / 312, exact=False),
    }
    return _times(312.0, shares)


def _geforce(matmul: float, flash: float, fast_peak: float, own_int8: float, sage: float) -> dict[str, Prediction]:
    """flash: published or, on the RTX 5090, 0.9 of the peak. fast_peak: int8 scores and fp16 sums together, each
    half of the operations (4 and 2 times the bf16 rate: 2 / (1/4 + 1/2) = 2.67 times it); own_int8: the share of it
    for the pack's kernel, which scales every tile in fp32 between two products; sage: TFLOP/s as published."""
    return {
        "cudnn": Prediction(flash),
        "flash": Prediction(flash, resident=2),
        "flash-attn": Prediction(flash, resident=2),
        "sdpa": Prediction(flash, resident=2),
        "triton": Prediction(0.93 * flash),
        "efficient": Prediction(0.70 * matmul, tile=64, resident=2),
        "triton-int8": Prediction(own_int8 * fast_peak, exact=False),
        "sage": Prediction(sage, exact=False),
    }


def _times(peak: float, shares: dict[str, Prediction]) -> dict[str, Prediction]:
    return {
        name: Prediction(peak * entry.teraflops, entry.tile, entry.resident, entry.exact)
        for name, entry in shares.items()
    }


PREDICTIONS: dict[str, dict[str, Prediction]] = {
    "H100": _hopper(),
    "H200": _hopper(),  # the same chip: attention does not wait for its faster memory
    "A100": _ampere(),
    "RTX 4090": _geforce(165.0, 164.0, 440.0, 0.55, 322.0),
    "RTX 5090": _geforce(210.0, 190.0, 560.0, 0.50, 450.0),
    "RTX 3090": _geforce(71.0, 68.0, 189.0, 0.55, 134.0),
}

# Shares of the copy rate, by the bytes a fused pass would need over the bytes the passes move (per element, M = N/2):
PASS_PREDICTIONS: dict[str, float] = {
    "gather rows": 0.90,  # one kernel; rows of 3 KB and more are read in whole lines
    "put rows back": 0.90,  # likewise
    "LayerNorm and modulate": 0.50,  # two kernels: 4 bytes are needed, 8 are moved
    "refit: statistics": 0.15,  # fp32 copies of both, two means, two products: 4 needed, about 28 moved
    "refit: statistics and apply": 0.33,  # 6 needed; 14 for the statistics of half the rows, 4 to apply
    "scaled refit: statistics and apply": 0.22,  # and two more passes in place: 8
    "change of tokens": 0.20,  # difference, fp32 copy, product: 4 needed, 18 moved
}


@dataclass(frozen=True)
class CpuPrediction:
    """linearity by M/N; to_sdpa: time over torch's own, without and with log-sum-exp."""

    linearity: dict[float, float]
    to_sdpa: float
    to_sdpa_with_lse: float


# torch's flash kernel for CPUs takes 256 queries at a time where there are 768 or more, 64 below: at M/N = 0.1 of 4096
# it streams the keys four times as often through the first cache. The tiled products copy the keys of a head once:
# 1/M of the work. Queries come in multiples of 128, which the figures count in.
_LINEARITY = {0.1: 1.06, 0.25: 1.02, 0.5: 1.01, 0.75: 1.01, 1.0: 1.0}
_LINEARITY_8192 = {0.1: 1.02, 0.25: 1.01, 0.5: 1.0, 0.75: 1.0, 1.0: 1.0}
# All written before products by oneDNN were among the backends.
# fp32: torch's choice takes part in the race and returns the sum's logarithm inside already: no slower than itself.
# bf16: without matrix instructions converted products win; fp16: emulated in torch, computed in fp32 here.
CPU_PREDICTIONS: dict[tuple[int, int, str], CpuPrediction] = {
    (4096, 128, "float32"): CpuPrediction(_LINEARITY, 0.98, 1.0),
    (4096, 64, "float32"): CpuPrediction(_LINEARITY, 0.98, 1.0),
    (8192, 128, "float32"): CpuPrediction(_LINEARITY_8192, 0.98, 1.0),
    (4096, 128, "bfloat16"): CpuPrediction(_LINEARITY, 0.90, 0.95),
    (4096, 128, "float16"): CpuPrediction(_LINEARITY, 0.50, 0.50),
}


def device_of(name: str) -> Device | None:
    """The device that torch calls `name`; None for those without predictions."""
    return next((device for device in DEVICES if re.search(device.names, name.strip())), None)


def waves(programs: int, slots: int) -> int:
    """How many times a device must be filled."""
    return math.ceil(programs / slots)


def wave_linearity(queries: int, tokens: int, heads: int, prediction: Prediction, processors: int) -> float:
    """t(M) / (M/N · t(N)) if time goes by full waves of tiles: few queries leave most of the last wave idle."""
    slots = processors * prediction.resident
    few, all_ = (waves(heads * math.ceil(rows / prediction.tile), slots) for rows in (queries, tokens))
    return few / (queries / tokens * all_)


def predicted(device_name: str, queries: dict[float, int], running: Sequence[str]) -> dict[str, Any]:
    """What applies to a device, for a result: ceilings, and by backend TFLOP/s, linearity by M/N, ratio to the best.

    device_name: "" for what is no GPU; queries: M by M/N, at the shape that predictions are made for; running: the
    backends that can run here.
    """
    found: dict[str, Any] = {"family": None, "passes": PASS_PREDICTIONS if device_name else {}, "backends": {}}
    device = device_of(device_name)
    if device is None:
        return found
    table = {name: entry for name, entry in PREDICTIONS[device.family].items() if name in running}
    best = max((entry.teraflops for entry in table.values() if entry.exact), default=None)
    for name, entry in table.items():
        linearity = {
            f"{share:g}": wave_linearity(rows, TOKENS, HEADS, entry, device.processors)
            for share, rows in queries.items()
        }
        ratio = None if best is None else entry.teraflops / best
        found["backends"][name] = {"teraflops": entry.teraflops, "ratio": ratio, "linearity": linearity}
    return found | {
        "family": device.family,
        "matmul_teraflops": device.matmul * MATMUL_SHARE.get(device.family, MATMUL_SHARE_ELSEWHERE),
        "copy_gigabytes": device.bandwidth * COPY_SHARE,
    }
