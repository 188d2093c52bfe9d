"""Attention forward with pointer loads: any device Triton compiles for, any strides, optionally sparse over keys.

One program per tile of queries and head. No atomics: the same inputs give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .online_softmax import load_block, store_rows, weigh_values


@triton.jit
def find_listed_tiles(counts, tiles, list_length, list_idx, keys, KEY_TILE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the pointer to the tile numbers of a list of `KeyTiles`, the number of whole key blocks in its tiles, and
    whether its last tile reaches beyond the keys.
    """
    PARTS: tl.constexpr = KEY_TILE // BLOCK_N
    count = tl.minimum(tl.load(counts + list_idx), list_length)
    listed = tiles + list_idx * list_length
    last = tl.load(listed + count - 1, mask=count > 0, other=0)
    # Tile numbers ascend: only the last one can reach beyond the keys.
    beyond = (count > 0) & ((last + 1) * KEY_TILE > keys)
    whole = count * PARTS - tl.where(beyond, PARTS - keys // BLOCK_N % PARTS, 0)
    return listed, whole, beyond


@triton.jit
def attend_block(q_tile, k_rows, v_rows, start, present, acc, top, total, factor):
    """Attend to the block of keys from row `start` on: returns acc, top and total (see `softmax_step`) after it.

    k_rows, v_rows: as in `load_block`, with offsets `[D, BLOCK_N]`, `[BLOCK_N, D]`; present: as in `weigh_values`.
    """
    k_tile = load_block(k_rows, start, None if present is None else present[None, :])
    scores = tl.dot(q_tile, k_tile, input_precision="ieee")
    weights, v_tile, shrink, top, total = weigh_values(scores, v_rows, start, present, top, total, factor)
    acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision="ieee")
    return acc, top, total


@triton.jit
def attend_keys(
    q_tile, k_rows, v_rows, factor, keys, listed, whole, ragged, KEY_TILE: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Attend to all keys or to listed tiles: returns acc `[BLOCK_M, D]`, top and total `[BLOCK_M]`, fp32.

    k_rows, v_rows: as in `attend_block`; listed: pointer to tile numbers, None: all keys. whole: blocks of BLOCK_N keys
    to attend to; ragged: whether the block that reaches beyond the keys is one more.
    """
    BLOCK_M: tl.constexpr = q_tile.shape[0]
    PARTS: tl.constexpr = KEY_TILE // BLOCK_N
    row_factor = tl.full([BLOCK_M], factor, tl.float32)
    acc = tl.zeros(q_tile.shape, tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if ragged:
        ragged_start = keys // BLOCK_N * BLOCK_N
        start = tl.cast(ragged_start, tl.int64)
        present = ragged_start + tl.arange(0, BLOCK_N) < keys
        acc, top, total = attend_block(q_tile, k_rows, v_rows, start, present, acc, top, total, row_factor)
    for idx in range(whole):
        if listed is None:
            start = tl.cast(idx * BLOCK_N, tl.int64)
        else:
            start = tl.cast(tl.load(listed + idx // PARTS) * KEY_TILE + idx % PARTS * BLOCK_N, tl.int64)
        acc, top, total = attend_block(q_tile, k_rows, v_rows, start, None, acc, top, total, row_factor)
    return acc, top, total


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
    """Attend; q `[B, M, H, D]`, k and v `[B, N, H, D]`, last stride 1; lse, and counts with tiles, may be None.

    counts and tiles are those of `KeyTiles`; BLOCK_M divides QUERY_TILE and BLOCK_N divides KEY_TILE.
    """
    # Tiles of queries vary fastest, so that programs that run together read the same keys from the L2 cache.
    row_tile = tl.program_id(0)
    # All factors of a stride are int64: a packed QKV of two long videos passes 2³¹ elements.
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    rows = (row_tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    column_rows = tl.arange(0, BLOCK_N).to(tl.int64)
    dims = tl.arange(0, HEAD_DIM)
    q_at = q + batch * q_stride_batch + head * q_stride_head + (rows * q_stride_row)[:, None] + dims[None, :]
    q_tile = tl.load(q_at, mask=(rows < queries)[:, None], other=0.0)
    k_head = k + batch * k_stride_batch + head * k_stride_head
    v_head = v + batch * v_stride_batch + head * v_stride_head
    k_rows = (k_head, k_stride_row, (column_rows * k_stride_row)[None, :] + dims[:, None])
    v_rows = (v_head, v_stride_row, (column_rows * v_stride_row)[:, None] + dims[None, :])
    whole = keys // BLOCK_N
    ragged = whole * BLOCK_N < keys
    listed = None
    if tiles is not None:
        list_idx = (batch * heads + head) * query_tiles + row_tile * BLOCK_M // QUERY_TILE
        listed, whole, beyond = find_listed_tiles(counts, tiles, list_length, list_idx, keys, KEY_TILE, BLOCK_N)
        ragged = ragged & beyond
    acc, top, total = attend_keys(q_tile, k_rows, v_rows, factor, keys, listed, whole, ragged, KEY_TILE, BLOCK_N)
    store_rows(out, lse, acc, top, total, batch, head, rows, queries, heads, 0.0, HEAD_DIM)
