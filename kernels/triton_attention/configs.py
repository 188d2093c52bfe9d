"""Tile shapes of the kernels, by architecture, kernel and head size.

All compile without register spills, with the oldest supported Triton and with the newest:
tests/kernels/test_compile_shipped.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Queries (block_m) and keys (block_n) of a tile, warps of a program, stages of the software pipeline."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def compile_options(config: Config) -> dict[str, int | bool]:
    """Return the compiler's options. Fused multiply-add is stated: its default depends on Triton's version."""
    return {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True}


ROWS = Config(64, 0, 4, 1)  # of `quantise_rows` and `order_values`, which have no keys
POOL = Config(32, 0, 4, 1)  # of `pool_tiles`
SELECT = Config(1, 0, 8, 1)  # of `select_rows`
HEAD_DIMS = (64, 128)
# The interpreter gets small tiles: its time grows with operations and padding, and more tiles test more of a kernel.
_TABLE: dict[tuple[str, str], dict[int, Config]] = {
    ("interpreter", "pointer"): dict.fromkeys(HEAD_DIMS, Config(32, 32, 4, 1)),
    ("interpreter", "tiles"): dict.fromkeys(HEAD_DIMS, Config(64, 32, 4, 1)),
    ("interpreter", "tma"): dict.fromkeys(HEAD_DIMS, Config(32, 32, 4, 1)),
    ("interpreter", "int8"): dict.fromkeys(HEAD_DIMS, Config(32, 32, 4, 1)),
    ("interpreter", "int8_tiles"): dict.fromkeys(HEAD_DIMS, Config(64, 32, 4, 1)),
    # 128 × 64 with 4 warps would spill almost everywhere.
    ("sm80", "pointer"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    # With orders of tokens a third stage would spill.
    ("sm80", "tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 2)},
    ("sm80", "int8"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm80", "int8_tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    # 99 KB of shared memory instead of 163: two stages for heads of 128.
    ("sm86", "pointer"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 2)},
    ("sm86", "tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm86", "int8"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm86", "int8_tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm89", "pointer"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 2)},
    ("sm89", "tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm89", "int8"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm89", "int8_tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm90", "pointer"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm90", "tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm90", "tma"): {64: Config(128, 128, 8, 2), 128: Config(128, 128, 8, 2)},
    ("sm100", "pointer"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm100", "tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm100", "tma"): {64: Config(128, 128, 8, 2), 128: Config(128, 128, 8, 2)},
    ("sm120", "pointer"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 2)},
    ("sm120", "tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm120", "int8"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    ("sm120", "int8_tiles"): {64: Config(128, 64, 8, 3), 128: Config(128, 64, 8, 3)},
    # AMD: one stage, as a software pipeline would hold the next tiles in registers.
    ("gfx942", "pointer"): {64: Config(128, 64, 4, 1), 128: Config(128, 64, 4, 1)},
    ("gfx942", "tiles"): {64: Config(128, 32, 4, 1), 128: Config(128, 64, 4, 1)},
    # RDNA3 keeps the operands of its matrix instructions twice in registers: two warps to 16 rows.
    ("gfx1100", "pointer"): {64: Config(128, 32, 8, 1), 128: Config(64, 32, 8, 1)},
    ("gfx1100", "tiles"): {64: Config(128, 32, 8, 1), 128: Config(64, 16, 8, 1)},
    ("gfx1201", "pointer"): {64: Config(128, 64, 8, 1), 128: Config(128, 32, 8, 1)},
    ("gfx1201", "tiles"): {64: Config(128, 64, 8, 1), 128: Config(128, 32, 8, 1)},
}

SHIPPED: tuple[tuple[str, str, int], ...] = tuple(
    (architecture, kind, head_dim)
    for (architecture, kind), sizes in _TABLE.items()
    for head_dim in sizes
    if architecture != "interpreter"
)


def config_for(architecture: str, kind: str, head_dim: int) -> Config | None:
    """Return the configuration of a kernel, None where none is shipped.

    kind: `pointer`, `tma` or `int8` for all keys, `tiles` or `int8_tiles` for listed tiles of keys.
    """
    return _TABLE.get((_nearest_shipped(architecture), kind), {}).get(head_dim)


# AMD chips with the same matrix instructions and as many registers (gfx1102 has fewer: it would spill).
SIBLINGS = {"gfx1101": "gfx1100", "gfx1200": "gfx1201"}


def _nearest_shipped(architecture: str) -> str:
    """Return the architecture if it is shipped, else its sibling, or the next lower minor of NVIDIA's generation."""
    architecture = SIBLINGS.get(architecture, architecture)
    shipped = {name for name, _ in _TABLE}
    match = re.fullmatch(r"sm(\d+)(\d)", architecture)
    if match is None:
        return architecture
    lower = (f"sm{match[1]}{minor}" for minor in range(int(match[2]), -1, -1))
    return next((name for name in lower if name in shipped), architecture)
