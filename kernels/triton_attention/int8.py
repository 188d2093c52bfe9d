"""Attention forward of int8 scores and fp16 sums of values: on GeForce cards four times and twice as fast as products
with fp32 sums.

The method of SageAttention (Zhang et al., ICLR 2025), with finer scales: K minus its mean over tokens, a scale per row
of Q and per token of K, P·V summed in fp16 within a tile and in fp32 across tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .forward import attend_keys, count_blocks, find_list, find_order, find_rows
from .online_softmax import add_rest, load_block, store_rows, weigh_values


@triton.jit(do_not_specialize=["count", "heads", "orders_stride"])
def quantise_rows(
    x,
    offset,
    direction,
    codes,
    scales,
    projection,
    factor,
    count,
    heads,
    stride_batch,
    stride_row,
    stride_head,
    orders,
    of_head,
    orders_stride,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write codes, int8 `[B, T, H, D]`, and scales, fp32 `[B, H, T]`: (x − offset) · factor ≈ codes · scales.

    x `[B, T, H, D]`, last stride 1; offset fp32 `[B, H, D]` or None. With direction, fp32 `[B, H, D]`, also
    projection, fp32 `[B, H, T]`: the product of each row and the direction · factor. With orders, see `find_order`, all
    results are in the order of their head, so that attention reads them one after another.
    """
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    places = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    rows = find_rows(find_order(orders, of_head, batch, head, count, orders_stride), places, count)
    dims = tl.arange(0, HEAD_DIM)
    present = places < count
    at = x + batch * stride_batch + head * stride_head + (rows * stride_row)[:, None] + dims[None, :]
    values = tl.load(at, mask=present[:, None], other=0.0).to(tl.float32)
    head_idx = batch * heads + head
    if offset is not None:
        values -= tl.load(offset + head_idx * HEAD_DIM + dims)[None, :]
    if direction is not None:
        product = tl.sum(values * tl.load(direction + head_idx * HEAD_DIM + dims)[None, :], 1)
        tl.store(projection + head_idx * count + places, product * factor, mask=present)
    # A row of zeros needs a scale that is not zero.
    scale = tl.maximum(tl.max(tl.abs(values), 1), 1e-20) / 127.0
    scaled = values / scale[:, None]
    # Conversion truncates, so half is added away from zero. |scaled| ≤ 127: nothing overflows.
    rounded = (scaled + tl.where(scaled < 0.0, -0.5, 0.5)).to(tl.int8)
    codes_at = codes + (((batch * count + places) * heads + head) * HEAD_DIM)[:, None] + dims[None, :]
    tl.store(codes_at, rounded, mask=present[:, None])
    tl.store(scales + head_idx * count + places, scale * factor, mask=present)


@triton.jit(do_not_specialize=["count", "heads"])
def order_values(
    v,
    v_scales,
    half,
    count,
    heads,
    stride_batch,
    stride_row,
    stride_head,
    orders,
    of_head,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write half, fp16 `[B, N, H, D]`: v / v_scales, fp32 `[B, H, D]`, in the order of each head, see `find_order`."""
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    places = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    rows = find_rows(find_order(orders, of_head, batch, head, count, 0), places, count)
    dims = tl.arange(0, HEAD_DIM)
    present = (places < count)[:, None]
    at = v + batch * stride_batch + head * stride_head + (rows * stride_row)[:, None] + dims[None, :]
    values = tl.load(at, mask=present, other=0.0).to(tl.float32)
    scales = tl.load(v_scales + (batch * heads + head) * HEAD_DIM + dims)[None, :]
    # Rounded as torch's division, which prepares values that are in order.
    scaled = tl.math.div_rn(values, tl.broadcast_to(scales, [BLOCK, HEAD_DIM]))
    half_at = half + (((batch * count + places) * heads + head) * HEAD_DIM)[:, None] + dims[None, :]
    tl.store(half_at, scaled.to(tl.float16), mask=present)


@triton.jit
def attend_block_int8(tile, k_rows, v_rows, start, order, present, acc, top, total, BLOCK_N: tl.constexpr):
    """Attend to a block of keys as `forward.attend_block` does, without order: K and V are in order.

    tile: codes of queries and their scales; k_rows: of codes, as in `load_block`, and the pointer to their scales.
    """
    q_tile, q_scale = tile
    codes, k_scales = k_rows
    k_tile = load_block(codes, start, None if present is None else present[None, :])
    k_scale = load_block((k_scales, 1, tl.arange(0, BLOCK_N)), start, present)
    scores = tl.dot(q_tile, k_tile, out_dtype=tl.int32).to(tl.float32) * k_scale[None, :]
    weights, v_tile, shrink, top, total = weigh_values(scores, v_rows, start, present, top, total, q_scale)
    acc = acc * shrink[:, None] + tl.dot(weights.to(tl.float16), v_tile, out_dtype=tl.float16).to(tl.float32)
    return acc, top, total


@triton.jit(do_not_specialize=["queries", "keys", "heads", "query_tiles", "list_length", "query_orders_stride"])
def attend_forward_int8(
    q_codes, q_scales, k_codes, k_scales, v, v_scales, shift, out, lse, queries, keys, heads, v_stride_batch,
    v_stride_row, v_stride_head, counts, tiles, query_tiles, list_length, query_orders, of_head, query_orders_stride,
    rest_top, rest_value, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr,
):  # fmt: skip
    """As `attend_forward`, from the codes and scales of q (its scales times scale · log2(e)) and of k. Codes, scales, v
    and shift are in the order of each head.

    v is fp16; the output is multiplied by v_scales, fp32 `[B, H, D]`. shift, fp32 `[B, H, M]`, is added to
    scores in base 2: it undoes the subtraction of K's mean. It may be None without lse and without rest.
    """
    row_tile = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    head_idx = batch * heads + head
    dims = tl.arange(0, HEAD_DIM)
    columns = tl.arange(0, BLOCK_N).to(tl.int64)
    places = (row_tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    present = places < queries
    q_at = q_codes + (((batch * queries + places) * heads + head) * HEAD_DIM)[:, None] + dims[None, :]
    q_tile = tl.load(q_at, mask=present[:, None], other=0)
    q_scale = tl.load(q_scales + head_idx * queries + places, mask=present, other=1.0)
    row_stride = heads * HEAD_DIM
    k_head = k_codes + (batch * keys * heads + head) * HEAD_DIM
    k_rows = ((k_head, row_stride, (columns * row_stride)[None, :] + dims[:, None]), k_scales + head_idx * keys)
    v_head = v + batch * v_stride_batch + head * v_stride_head
    v_rows = (v_head, v_stride_row, (columns * v_stride_row)[:, None] + dims[None, :])
    list_idx = head_idx * query_tiles + row_tile * BLOCK_M // QUERY_TILE
    listed = find_list(tiles, list_length, list_idx)
    blocks = count_blocks(counts, listed, list_length, list_idx, keys, KEY_TILE, BLOCK_N)
    acc, top, total = attend_keys(
        (q_tile, q_scale), k_rows, v_rows, None, keys, listed, blocks, KEY_TILE, BLOCK_N, attend_block_int8
    )
    acc *= tl.load(v_scales + head_idx * HEAD_DIM + dims)[None, :]
    row_shift = 0.0
    if shift is not None:
        row_shift = tl.load(shift + head_idx * queries + places, mask=present, other=0.0)
    # The rest's score is that of keys as they were.
    acc, top, total = add_rest(rest_top, rest_value, list_idx, row_shift, acc, top, total)
    rows = find_rows(find_order(query_orders, of_head, batch, head, queries, query_orders_stride), places, queries)
    store_rows(out, lse, acc, top, total, batch, head, rows, queries, heads, row_shift, HEAD_DIM)
