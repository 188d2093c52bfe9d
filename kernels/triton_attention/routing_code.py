"""Kernels of routing: means of tiles of rows, and the selection of key tiles in each row of scores."""

from __future__ import annotations

import triton
import triton.language as tl

UNLISTED = tl.constexpr(2**31 - 1)  # as in `kernels.routing`
LOWEST = tl.constexpr(-(2**31))


@triton.jit(do_not_specialize=["count", "heads", "tiles", "rows_stride_batch", "rows_stride_head"])
def pool_tiles(
    x,
    rows,
    means,
    count,
    heads,
    tiles,
    stride_batch,
    stride_row,
    stride_head,
    rows_stride_batch,
    rows_stride_head,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write means, fp32 `[B, H, tiles, D]`, of tiles of TILE rows of x `[B, N, H, D]`, last stride 1; the last may have
    fewer.

    rows: the row at each place, int32 `[B, H, N]`, last stride 1; None: rows as they are. BLOCK rows are read at once;
    BLOCK_DIM: D rounded up to a power of two.
    """
    tile = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    dims = tl.arange(0, BLOCK_DIM)
    x_head = x + batch * stride_batch + head * stride_head
    total = tl.zeros([BLOCK, BLOCK_DIM], tl.float32)
    for part in range(TILE // BLOCK):
        places = tile * TILE + part * BLOCK + tl.arange(0, BLOCK)
        present = places < count
        numbers = places
        if rows is not None:
            row_at = rows + batch * rows_stride_batch + head * rows_stride_head + places
            numbers = tl.load(row_at, mask=present, other=0).to(tl.int64)
        at = x_head + (numbers * stride_row)[:, None] + dims[None, :]
        total += tl.load(at, mask=present[:, None] & (dims < DIM)[None, :], other=0.0).to(tl.float32)
    held = tl.minimum(count - tile * TILE, TILE).to(tl.float32)
    means_at = means + ((batch * heads + head) * tiles + tile) * DIM + dims
    tl.store(means_at, tl.sum(total, 0) / held, mask=dims < DIM)


@triton.jit
def ordered_bits(scores):
    """Return int32 numbers in the order of fp32 scores, equal where these are: −0 as 0, and NaN as −∞."""
    bits = scores.to(tl.int32, bitcast=True)
    bits = tl.where(bits == LOWEST, 0, bits)
    infinity = 0x7F800000
    bits = tl.where((bits & 0x7FFFFFFF) > infinity, infinity | LOWEST, bits)
    # Of negative numbers the greater bits are the lower score.
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def threshold_of(values, wanted):
    """Return the greatest int32 t such that at least `wanted` of the values `[BLOCK]` are t or greater."""
    # One bit after another, the sign's first: numbers of a sign grow with their other bits.
    found = LOWEST + tl.zeros([], tl.int32)
    if tl.sum((values >= 0).to(tl.int32)) >= wanted:
        found = tl.zeros([], tl.int32)
    for bit in range(31):
        candidate = found + (1 << (30 - bit))
        reached = tl.sum((values >= candidate).to(tl.int32)) >= wanted
        found = tl.where(reached, candidate, found)
    return found


@triton.jit(do_not_specialize=["heads", "rows", "tiles", "length", "forced"])
def select_rows(scores, counts, listed, heads, rows, tiles, length, forced, BLOCK: tl.constexpr):
    """Write lists, int32 `[B, H, rows, length]`, of the tiles with the highest scores, fp32 `[B, H, rows, tiles]`: see
    `kernels.routing.select_tiles`. BLOCK: a power of two, at least tiles and length.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    free = tiles - forced
    values = ordered_bits(tl.load(scores + row * tiles + columns, mask=columns < free, other=0.0))
    values = tl.where(columns < free, values, LOWEST)  # lower than any score
    wanted = tl.minimum(tl.load(counts + row // rows % heads), length) - forced
    wanted = tl.minimum(tl.maximum(wanted, 0), free)
    threshold = threshold_of(values, wanted)
    above = values > threshold
    # Of the tiles at the threshold the first ones.
    equal = values == threshold
    places = tl.cumsum(equal.to(tl.int32), 0)
    taken = above | (equal & (places <= wanted - tl.sum(above.to(tl.int32))))
    taken |= (columns >= free) & (columns < tiles)
    taken_before = tl.cumsum(taken.to(tl.int32), 0) - 1
    tl.store(listed + row * length + taken_before, columns, mask=taken)
    tl.store(listed + row * length + columns, UNLISTED, mask=(columns >= wanted + forced) & (columns < length))
