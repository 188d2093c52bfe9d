"""What every attention kernel here shares: one step of the online softmax, and the end of a tile of queries.

Scores live in base 2: `factor` is scale · log2(e), so that exp2 serves and the log-sum-exp is turned back at the end.
"""

from __future__ import annotations

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def softmax_step(scores, top, total, factor):
    """Weights of one tile of keys, and the running state after it.

    `top` is the largest score · factor of each row so far, `total` the sum of its weights relative to that; what was
    summed before must be multiplied by `shrink`. `factor` is one number for each row, > 0.
    """
    new_top = tl.maximum(top, tl.max(scores, 1) * factor)
    weights = tl.math.exp2(scores * factor[:, None] - new_top[:, None])
    shrink = tl.math.exp2(top - new_top)
    return weights, shrink, new_top, total * shrink + tl.sum(weights, 1)


@triton.jit
def store_rows(out, lse, acc, top, total, batch, head, rows, queries, heads, shift, HEAD_DIM: tl.constexpr):
    """Writes out `[B, M, H, D]` and, unless None, lse `[B, H, M]`, both contiguous.

    batch, head and rows are int64: an output may pass 2³¹ elements. `shift` is added to the log-sum-exp in base 2.
    """
    present = rows < queries
    # Rows that attended to nothing: zeros, and a log-sum-exp of −∞ from their `top`.
    total = tl.where(total == 0.0, 1.0, total)
    dims = tl.arange(0, HEAD_DIM)
    at = ((batch * queries + rows) * heads + head) * HEAD_DIM
    tl.store(out + at[:, None] + dims[None, :], (acc / total[:, None]).to(out.dtype.element_ty), mask=present[:, None])
    if lse is not None:
        tl.store(lse + (batch * heads + head) * queries + rows, (top + tl.math.log2(total) + shift) * LN2, mask=present)
