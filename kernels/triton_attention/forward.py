"""Attention forward with pointer loads: any device Triton compiles for, any strides, optionally sparse over keys.

One program per tile of queries and head. No atomics: the same inputs give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .online_softmax import softmax_step, store_rows


# M and N differ from step to step: compiling anew for those divisible by 16 would cost seconds in the middle of a run.
@triton.jit(do_not_specialize=["queries", "keys", "heads", "query_tiles", "list_length"])
def attend_forward(
    q,
    k,
    v,
    out,
    lse,
    counts,
    tiles,
    factor,
    queries,
    keys,
    heads,
    query_tiles,
    list_length,
    q_stride_batch,
    q_stride_row,
    q_stride_head,
    k_stride_batch,
    k_stride_row,
    k_stride_head,
    v_stride_batch,
    v_stride_row,
    v_stride_head,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """q `[B, M, H, D]`, k and v `[B, N, H, D]`, last stride 1; lse, and counts with tiles, may be None.

    counts and tiles are those of `KeyTiles`; BLOCK_M divides QUERY_TILE and BLOCK_N divides KEY_TILE.
    """
    # Tiles of queries vary fastest, so that programs that run together read the same keys from the L2 cache.
    row_tile = tl.program_id(0)
    # Whatever meets a stride is int64: a packed QKV of two long videos passes 2³¹ elements.
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    rows = (row_tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    columns = tl.arange(0, BLOCK_N)
    column_rows = columns.to(tl.int64)
    dims = tl.arange(0, HEAD_DIM)

    q_at = q + batch * q_stride_batch + head * q_stride_head + (rows * q_stride_row)[:, None] + dims[None, :]
    q_tile = tl.load(q_at, mask=(rows < queries)[:, None], other=0.0)
    k_head = k + batch * k_stride_batch + head * k_stride_head
    v_head = v + batch * v_stride_batch + head * v_stride_head
    k_tile_offsets = (column_rows * k_stride_row)[None, :] + dims[:, None]
    v_tile_offsets = (column_rows * v_stride_row)[:, None] + dims[None, :]

    whole = keys // BLOCK_N
    ragged_start = whole * BLOCK_N
    ragged = ragged_start < keys
    if tiles is not None:
        PARTS: tl.constexpr = KEY_TILE // BLOCK_N
        listing = (batch * heads + head) * query_tiles + row_tile * BLOCK_M // QUERY_TILE
        count = tl.minimum(tl.load(counts + listing), list_length)
        listed = tiles + listing * list_length
        last = tl.load(listed + count - 1, mask=count > 0, other=0)
        # The numbers ascend: only the last one can be the tile that reaches beyond the keys.
        beyond = (count > 0) & ((last + 1) * KEY_TILE > keys)
        whole = count * PARTS - tl.where(beyond, PARTS - whole % PARTS, 0)
        ragged = ragged & beyond

    row_factor = tl.full([BLOCK_M], factor, tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if ragged:
        # Masked loads and not only masked scores: 0 · NaN of foreign memory would be NaN.
        start = tl.cast(ragged_start, tl.int64)
        present = ragged_start + columns < keys
        k_tile = tl.load(k_head + start * k_stride_row + k_tile_offsets, mask=present[None, :], other=0.0)
        scores = tl.dot(q_tile, k_tile, input_precision="ieee")
        scores = tl.where(present[None, :], scores, float("-inf"))
        weights, shrink, top, total = softmax_step(scores, top, total, row_factor)
        v_tile = tl.load(v_head + start * v_stride_row + v_tile_offsets, mask=present[:, None], other=0.0)
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision="ieee")
    for idx in range(whole):
        if tiles is None:
            start = tl.cast(idx * BLOCK_N, tl.int64)
        else:
            start = tl.cast(tl.load(listed + idx // PARTS) * KEY_TILE + idx % PARTS * BLOCK_N, tl.int64)
        k_tile = tl.load(k_head + start * k_stride_row + k_tile_offsets)
        scores = tl.dot(q_tile, k_tile, input_precision="ieee")
        weights, shrink, top, total = softmax_step(scores, top, total, row_factor)
        v_tile = tl.load(v_head + start * v_stride_row + v_tile_offsets)
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision="ieee")

    store_rows(out, lse, acc, top, total, batch, head, rows, queries, heads, 0.0, HEAD_DIM)
