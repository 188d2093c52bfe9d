"""Attention forward with pointer loads: any device Triton compiles for, any strides, optionally sparse over keys, with
tiles cut from an order of tokens of each head's own.

One program per tile of queries and head. No atomics: the same inputs give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .online_softmax import add_rest, load_block, store_rows, weigh_values


@triton.jit
def find_list(tiles, list_length, list_idx):
    """Return the pointer to a list of tile numbers of `KeyTiles`, None without lists."""
    listed = tiles
    if tiles is not None:
        listed = tiles + list_idx * list_length
    return listed


@triton.jit
def count_blocks(counts, listed, list_length, list_idx, keys, KEY_TILE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the number of whole blocks of keys to attend to, and whether the one beyond the keys' end is one more.

    listed: from `find_list`; without lists all keys are attended to.
    """
    PARTS: tl.constexpr = KEY_TILE // BLOCK_N
    whole = keys // BLOCK_N
    ragged = whole * BLOCK_N < keys
    if listed is not None:
        count = tl.minimum(tl.load(counts + list_idx), list_length)
        last = tl.load(listed + count - 1, mask=count > 0, other=0)
        # Tile numbers ascend: only the last one can reach beyond the keys.
        beyond = (count > 0) & ((last + 1) * KEY_TILE > keys)
        whole = count * PARTS - tl.where(beyond, PARTS - keys // BLOCK_N % PARTS, 0)
        ragged = ragged & beyond
    return whole, ragged


@triton.jit
def find_order(orders, of_head, batch, head, length, stride_batch):
    """Return the pointer to the order of a head, None without orders.

    orders: int32 `[1 or B, P, length]` or None; stride_batch: from batch to batch, 0 where all have the same; of_head:
    that of `Orders`. batch and head are int64.
    """
    order = orders
    if orders is not None:
        order = orders + batch * stride_batch + tl.load(of_head + head).to(tl.int64) * length
    return order


@triton.jit
def find_rows(order, places, length):
    """Return the rows at these int64 places of an order; the places as they are without one. Beyond stays beyond."""
    rows = places
    if order is not None:
        rows = tl.load(order + places, mask=places < length, other=length).to(tl.int64)
    return rows


@triton.jit
def block_offsets(rows, stride_row, dims, order):
    """Return the offsets that `load_block` takes: of a block of rows; with an order, which is not None, within a row.

    rows, int64, and dims: those of a block, in shapes that broadcast with each other.
    """
    offsets = dims
    if order is None:
        offsets = rows * stride_row + dims
    return offsets


@triton.jit
def load_row_numbers(order, start, present, BLOCK_N: tl.constexpr):
    """Return the rows at the places of an order from `start` on, int64 `[BLOCK_N]`; row 0 where not `present`."""
    at = order + start + tl.arange(0, BLOCK_N)
    numbers = tl.load(at) if present is None else tl.load(at, mask=present, other=0)
    return numbers.to(tl.int64)


@triton.jit
def attend_block(tile, k_rows, v_rows, start, order, present, acc, top, total, BLOCK_N: tl.constexpr):
    """Attend to the block of keys from place `start` on: returns acc, top and total (see `softmax_step`) after it.

    tile: queries, and the factor of each row; k_rows, v_rows: as in `load_block`, with offsets that broadcast to
    `[D, BLOCK_N]`, `[BLOCK_N, D]`; order: pointer to the key at each place, None: keys are in place. present: as in
    `weigh_values`.
    """
    q_tile, factor = tile
    numbers = None if order is None else load_row_numbers(order, start, present, BLOCK_N)
    k_start = start if order is None else numbers[None, :]  # type: ignore[index]
    v_start = start if order is None else numbers[:, None]  # type: ignore[index]
    k_tile = load_block(k_rows, k_start, None if present is None else present[None, :])
    scores = tl.dot(q_tile, k_tile, input_precision="ieee")
    weights, v_tile, shrink, top, total = weigh_values(scores, v_rows, v_start, present, top, total, factor)
    acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision="ieee")
    return acc, top, total


@triton.jit
def attend_keys(
    tile,
    k_rows,
    v_rows,
    order,
    keys,
    listed,
    blocks,
    KEY_TILE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ATTEND_BLOCK: tl.constexpr,
):
    """Attend to all keys or to listed tiles: returns acc `[BLOCK_M, D]`, top and total `[BLOCK_M]`, fp32.

    tile, k_rows, v_rows, order: as ATTEND_BLOCK takes them, which is `attend_block` or one like it; listed: from
    `find_list`; blocks: from `count_blocks`.
    """
    BLOCK_M: tl.constexpr = tile[0].shape[0]
    HEAD_DIM: tl.constexpr = tile[0].shape[1]
    PARTS: tl.constexpr = KEY_TILE // BLOCK_N
    whole, ragged = blocks
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if ragged:
        ragged_start = keys // BLOCK_N * BLOCK_N
        start = tl.cast(ragged_start, tl.int64)
        present = ragged_start + tl.arange(0, BLOCK_N) < keys
        acc, top, total = ATTEND_BLOCK(tile, k_rows, v_rows, start, order, present, acc, top, total, BLOCK_N)
    for idx in range(whole):
        if listed is None:
            start = tl.cast(idx * BLOCK_N, tl.int64)
        else:
            start = tl.cast(tl.load(listed + idx // PARTS) * KEY_TILE + idx % PARTS * BLOCK_N, tl.int64)
        acc, top, total = ATTEND_BLOCK(tile, k_rows, v_rows, start, order, None, acc, top, total, BLOCK_N)
    return acc, top, total


# M and N differ from step to step: compiling anew for those divisible by 16 would cost seconds in the middle of a run.
@triton.jit(do_not_specialize=["queries", "keys", "heads", "query_tiles", "list_length", "query_orders_stride"])
def attend_forward(
    q, k, v, out, lse, factor, queries, keys, heads, q_stride_batch, q_stride_row, q_stride_head, k_stride_batch,
    k_stride_row, k_stride_head, v_stride_batch, v_stride_row, v_stride_head, counts, tiles, query_tiles, list_length,
    key_orders, query_orders, of_head, query_orders_stride, rest_top, rest_value, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr,
):  # fmt: skip
    """Attend; q `[B, M, H, D]`, k and v `[B, N, H, D]`, last stride 1; lse may be None.

    counts and tiles: those of `KeyTiles`; key_orders to query_orders_stride: see `find_order`; rest_top and rest_value:
    those of `Rest`. Each of the three may be None. BLOCK_M divides QUERY_TILE and BLOCK_N divides KEY_TILE.
    """
    # Tiles of queries vary fastest, so that programs that run together read the same keys from the L2 cache.
    row_tile = tl.program_id(0)
    # All factors of a stride are int64: a packed QKV of two long videos passes 2³¹ elements.
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    dims = tl.arange(0, HEAD_DIM)
    columns = tl.arange(0, BLOCK_N).to(tl.int64)
    places = (row_tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    rows = find_rows(find_order(query_orders, of_head, batch, head, queries, query_orders_stride), places, queries)
    q_at = q + batch * q_stride_batch + head * q_stride_head + (rows * q_stride_row)[:, None] + dims[None, :]
    q_tile = tl.load(q_at, mask=(rows < queries)[:, None], other=0.0)
    tile = (q_tile, tl.full([BLOCK_M], factor, tl.float32))
    order = find_order(key_orders, of_head, batch, head, keys, 0)
    k_offsets = block_offsets(columns[None, :], k_stride_row, dims[:, None], order)
    v_offsets = block_offsets(columns[:, None], v_stride_row, dims[None, :], order)
    k_rows = (k + batch * k_stride_batch + head * k_stride_head, k_stride_row, k_offsets)
    v_rows = (v + batch * v_stride_batch + head * v_stride_head, v_stride_row, v_offsets)
    list_idx = (batch * heads + head) * query_tiles + row_tile * BLOCK_M // QUERY_TILE
    listed = find_list(tiles, list_length, list_idx)
    blocks = count_blocks(counts, listed, list_length, list_idx, keys, KEY_TILE, BLOCK_N)
    acc, top, total = attend_keys(tile, k_rows, v_rows, order, keys, listed, blocks, KEY_TILE, BLOCK_N, attend_block)
    acc, top, total = add_rest(rest_top, rest_value, list_idx, 0.0, acc, top, total)
    store_rows(out, lse, acc, top, total, batch, head, rows, queries, heads, 0.0, HEAD_DIM)
