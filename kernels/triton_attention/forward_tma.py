"""Attention forward for Hopper and later: K and V by tensor descriptors (TMA), which save registers for addresses.

The host makes the descriptors: in-kernel descriptors need a scratch allocator for the whole process. Queries are loaded
by pointers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .online_softmax import softmax_step, store_rows


@triton.jit(do_not_specialize=["queries", "keys", "heads"])
def attend_forward_tma(
    q,
    k_descriptor,
    v_descriptor,
    out,
    lse,
    factor,
    queries,
    keys,
    heads,
    q_stride_batch,
    q_stride_row,
    q_stride_head,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """As `attend_forward`; k and v are descriptors of `[B, N, H, D]` with blocks `[1, BLOCK_N, 1, D]`.

    A descriptor fills rows beyond N with zeros, so foreign memory is never read and only scores are masked.
    """
    row_tile = tl.program_id(0)
    head_idx = tl.program_id(1)
    batch_idx = tl.program_id(2)
    head = head_idx.to(tl.int64)
    batch = batch_idx.to(tl.int64)
    rows = (row_tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    dims = tl.arange(0, HEAD_DIM)
    q_at = q + batch * q_stride_batch + head * q_stride_head + (rows * q_stride_row)[:, None] + dims[None, :]
    q_tile = tl.load(q_at, mask=(rows < queries)[:, None], other=0.0)

    row_factor = tl.full([BLOCK_M], factor, tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    whole = keys // BLOCK_N * BLOCK_N
    if whole < keys:
        k_tile = k_descriptor.load([batch_idx, whole, head_idx, 0]).reshape(BLOCK_N, HEAD_DIM)
        scores = tl.dot(q_tile, k_tile.T, input_precision="ieee")
        scores = tl.where((whole + tl.arange(0, BLOCK_N) < keys)[None, :], scores, float("-inf"))
        weights, shrink, top, total = softmax_step(scores, top, total, row_factor)
        v_tile = v_descriptor.load([batch_idx, whole, head_idx, 0]).reshape(BLOCK_N, HEAD_DIM)
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision="ieee")
    for start in range(0, whole, BLOCK_N):
        k_tile = k_descriptor.load([batch_idx, start, head_idx, 0]).reshape(BLOCK_N, HEAD_DIM)
        scores = tl.dot(q_tile, k_tile.T, input_precision="ieee")
        weights, shrink, top, total = softmax_step(scores, top, total, row_factor)
        v_tile = v_descriptor.load([batch_idx, start, head_idx, 0]).reshape(BLOCK_N, HEAD_DIM)
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision="ieee")

    store_rows(out, lse, acc, top, total, batch, head, rows, queries, heads, 0.0, HEAD_DIM)
