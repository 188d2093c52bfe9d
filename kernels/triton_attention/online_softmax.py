"""Parts of the attention kernels: loads, one step of the online softmax, and the output of a tile of queries.

Scores are in base 2: `factor` is scale · log2(e), for exp2; the log-sum-exp is converted to base e at the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def softmax_step(scores, top, total, factor):
    """Return the weights of a tile of keys, a factor `shrink` for earlier sums, and the new top and total.

    top: largest score · factor of each row so far; total: sum of the row's weights relative to it; factor: a number > 0
    for each row.
    """
    new_top = tl.maximum(top, tl.max(scores, 1) * factor)
    weights = tl.math.exp2(scores * factor[:, None] - new_top[:, None])
    shrink = tl.math.exp2(top - new_top)
    return weights, shrink, new_top, total * shrink + tl.sum(weights, 1)


@triton.jit
def load_block(rows, start, mask):
    """Load a block of K or V; zeros where `mask` is false, which is None where all rows exist.

    rows: pointer to a head, stride of its rows, offsets of a block of rows; start: its first row. Or offsets within a
    row, and start: the number of each row, in a shape that broadcasts with them.
    """
    head, stride, offsets = rows
    if mask is None:
        block = tl.load(head + start * stride + offsets)
    else:
        # Loads are masked, not only scores: 0 · NaN of foreign memory would be NaN.
        block = tl.load(head + start * stride + offsets, mask=mask, other=0)
    return block


@triton.jit
def weigh_values(scores, v_rows, start, present, top, total, factor):
    """Return the weights of a block of keys, its values, and shrink, top and total (see `softmax_step`) after it.

    v_rows, start: as in `load_block`. present: which rows exist, bool `[BLOCK_N]`; None: all.
    """
    if present is not None:
        scores = tl.where(present[None, :], scores, float("-inf"))
    weights, shrink, top, total = softmax_step(scores, top, total, factor)
    return weights, load_block(v_rows, start, None if present is None else present[:, None]), shrink, top, total


@triton.jit
def add_rest(rest_top, rest_value, list_idx, shift, acc, top, total):
    """Return acc, top and total (see `softmax_step`) after the term of a `Rest`: one more key, its score less `shift`.

    rest_top, rest_value: those of `Rest`, or None; list_idx: which of their terms; shift: of each row, in base 2.
    """
    # It comes last: as the state that the loop starts with it would cost registers there.
    if rest_top is not None:
        HEAD_DIM: tl.constexpr = acc.shape[1]
        score = tl.load(rest_top + list_idx) * LOG2_E
        value = tl.load(rest_value + list_idx * HEAD_DIM + tl.arange(0, HEAD_DIM))
        value = tl.where(score > float("-inf"), value, 0.0)  # of a term that does not exist: anything
        scores = tl.zeros_like(top) + (score - shift)
        new_top = tl.maximum(top, scores)
        base = tl.where(new_top > float("-inf"), new_top, 0.0)  # neither keys nor a term: −∞ − −∞ would be NaN
        weights = tl.math.exp2(scores - base)
        shrink = tl.math.exp2(top - base)
        acc = acc * shrink[:, None] + weights[:, None] * value[None, :]
        total = total * shrink + weights
        top = new_top
    return acc, top, total


@triton.jit
def store_rows(out, lse, acc, top, total, batch, head, rows, queries, heads, shift, HEAD_DIM: tl.constexpr):
    """Write out `[B, M, H, D]` and, unless None, lse `[B, H, M]`, both contiguous.

    batch, head and rows are int64: an output may pass 2³¹ elements. `shift` is added to the log-sum-exp in base 2.
    """
    present = rows < queries
    # Rows without keys: zeros, and a log-sum-exp of −∞ from their `top`.
    total = tl.where(total == 0.0, 1.0, total)
    dims = tl.arange(0, HEAD_DIM)
    at = ((batch * queries + rows) * heads + head) * HEAD_DIM
    tl.store(out + at[:, None] + dims[None, :], (acc / total[:, None]).to(out.dtype.element_ty), mask=present[:, None])
    if lse is not None:
        tl.store(lse + (batch * heads + head) * queries + rows, (top + tl.math.log2(total) + shift) * LN2, mask=present)
