"""Triton kernels of `kernels.routing`: means of tiles, and the selection of key tiles in each row.

Needs torch alone at import. Each kernel is tried on a device before its first use there.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..routing_reference import select_tiles_reference, tile_means_reference
from .availability import runs_on
from .configs import POOL, SELECT, compile_options
from .launch import device_context

POOLED_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
POOLED_TILES = (64, 128)
MAX_POOLED_DIM = 256
SMALLEST_ROW = 512  # one tile for each thread


def can_pool(x: Tensor, tile: int) -> bool:
    """Tell whether `tile_means` can take these rows."""
    fits = x.dtype in POOLED_DTYPES and tile in POOLED_TILES and x.stride(-1) == 1 and x.shape[-1] <= MAX_POOLED_DIM
    return fits and x.numel() > 0 and works_on(x.device)


def can_select(scores: Tensor, limit: int) -> bool:
    """Tell whether `select_tiles` can take these scores; limit: most key tiles."""
    fits = scores.dtype == torch.float32 and scores.shape[-1] <= limit
    return fits and scores.numel() > 0 and works_on(scores.device)


_works: dict[torch.device, bool] = {}


def works_on(device: torch.device) -> bool:
    """Tell whether the kernels run on a device and give what their definitions give; the first time it tries them."""
    if device not in _works:
        if not runs_on(device) or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            return False  # a trial waits for the device, which a CUDA graph cannot capture
        reason = _failure(device)
        if reason:
            logging.warning(f"Astraea: the Triton kernels of routing are not used here: {reason}")
        _works[device] = not reason
    return _works[device]


def _failure(device: torch.device) -> str:
    """Return why the kernels must not be used on a device; "" if they work."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 200, 2, 64, generator=generator).to(device)
    scores = torch.randn(2, 2, 3, 700, generator=generator).round(decimals=1).to(device)  # with ties
    counts = torch.tensor([70, 350], dtype=torch.int32, device=device)
    try:
        means, lists = tile_means(x, 128, None), select_tiles(scores, counts, 350, 1)
        if not torch.allclose(means, tile_means_reference(x, 128), rtol=0.0, atol=1e-5):
            return "means of tiles are wrong"
        if not torch.equal(lists, select_tiles_reference(scores, counts, 350, 1)):
            return "other tiles are selected"
    except Exception as error:  # a compiler may raise anything
        return f"{type(error).__name__}: {error}"
    return ""


def tile_means(x: Tensor, tile: int, rows: Tensor | None) -> Tensor:
    """Compute `kernels.routing.tile_means`, for tensors of which `can_pool` is true."""
    from .routing_code import pool_tiles

    batch, count, heads, dim = x.shape
    tiles = -(-count // tile)
    means = torch.empty(batch, heads, tiles, dim, dtype=torch.float32, device=x.device)
    row_strides: tuple[int, ...] = (0, 0)
    if rows is not None:
        rows = (rows if rows.stride(-1) == 1 else rows.contiguous()).expand(batch, heads, count)
        row_strides = rows.stride()[:2]
    with device_context(x.device):
        pool_tiles[(tiles, heads, batch)](
            x,
            rows,
            means,
            count,
            heads,
            tiles,
            *x.stride()[:3],
            *row_strides,
            DIM=dim,
            BLOCK_DIM=_power_of_two(dim),
            TILE=tile,
            BLOCK=POOL.block_m,
            **compile_options(POOL),
        )
    return means


def select_tiles(scores: Tensor, counts: Tensor, length: int, forced: int) -> Tensor:
    """Compute `kernels.routing.select_tiles`, for scores of which `can_select` is true."""
    from .routing_code import select_rows

    batch, heads, rows, tiles = scores.shape
    listed = torch.empty(batch, heads, rows, length, dtype=torch.int32, device=scores.device)
    with device_context(scores.device):
        select_rows[(batch * heads * rows,)](
            scores.contiguous(),
            counts.contiguous(),
            listed,
            heads,
            rows,
            tiles,
            length,
            forced,
            BLOCK=_power_of_two(max(tiles, length, SMALLEST_ROW)),
            **compile_options(SELECT),
        )
    return listed


def _power_of_two(number: int) -> int:
    """Return the least power of two that is not less."""
    return 1 << max(0, number - 1).bit_length()
