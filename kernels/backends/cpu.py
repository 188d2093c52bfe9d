"""Attention on a CPU: torch's flash kernel, and products in tiles of rows, by torch's own BLAS or by oneDNN.

Which is fastest depends on the CPU: oneDNN uses 512-bit vectors where a BLAS made for another maker's CPUs does not,
and tiles share the work of few heads better among threads. fp16 is computed in fp32: its products would be emulated.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..backend import Attended, Backend, Constraints

CPU = frozenset({"cpu"})
TILE_SCORES = 3 << 19  # fp32 scores of one tile: 6 MiB
MIN_ROWS = 128


def _has(operator: str) -> str:
    return "" if hasattr(torch.ops.aten, operator) else f"this torch has no {operator}"


def attend_flash(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """torch's own flash kernel; shapes as in `attend_reference`."""
    dtype = q.dtype
    if dtype == torch.float16:
        q, k, v = q.float(), k.float(), v.float()
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = flash(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
    return out.transpose(1, 2).to(dtype), lse.float() if need_lse else None


class Products(Protocol):
    """The two products of one head. Built for keys `[N, D]`, tiles of so many rows and q's dtype."""

    def take(self, k: Tensor, v: Tensor) -> None:
        """The next head's k and v, `[N, D]`."""

    def scores(self, rows: Tensor) -> Tensor:
        """rows kᵀ in fp32, `[m, N]`, from fp32 rows `[m, D]`; the caller may write into it until the next call."""

    def values(self, weights: Tensor) -> Tensor:
        """weights v, `[m, D]`, from fp32 weights `[m, N]`."""


class BlasProducts:
    """By `torch.mm`, which takes rows that lie apart as they are. One buffer holds the scores of every tile."""

    def __init__(self, keys: int, dim: int, rows: int, dtype: torch.dtype):
        self._buffer = torch.empty(rows, keys)
        self._weights_dtype = _weights_dtype(dtype)

    def take(self, k: Tensor, v: Tensor) -> None:
        self._k, self._v = k.float().t(), v.to(self._weights_dtype)

    def scores(self, rows: Tensor) -> Tensor:
        return torch.mm(rows, self._k, out=self._buffer[: rows.shape[0]])

    def values(self, weights: Tensor) -> Tensor:
        return torch.mm(weights.to(self._weights_dtype), self._v)


class OneDnnProducts:
    """By oneDNN's inner product, which torch's compiler uses. It wants keys and values without gaps: two buffers."""

    def __init__(self, keys: int, dim: int, rows: int, dtype: torch.dtype):
        self._k_buffer, self._v_buffer = torch.empty(keys, dim), torch.empty(keys, dim, dtype=_weights_dtype(dtype))

    def take(self, k: Tensor, v: Tensor) -> None:
        self._k, self._v = _without_gaps(k, self._k_buffer), v

    def scores(self, rows: Tensor) -> Tensor:
        return _inner_product(rows, self._k)

    def values(self, weights: Tensor) -> Tensor:
        # Copied when they are needed, into the cache that the scores' keys have left.
        self._v = _without_gaps(self._v, self._v_buffer)
        if self._v.dtype == torch.bfloat16:
            return torch.mm(weights.to(torch.bfloat16), self._v)
        return _inner_product(weights, self._v.t())


def _inner_product(rows: Tensor, weights: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weights, None, "none", [], "")


def _without_gaps(x: Tensor, buffer: Tensor) -> Tensor:
    """x itself if it has none and is of the buffer's type, as the buffer itself is; else its copy there."""
    return x if x.is_contiguous() and x.dtype == buffer.dtype else buffer.copy_(x)


def _weights_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the second product is made in: bf16 where it is asked for, as every flash kernel does."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def _attend_in_tiles(
    products: type[BlasProducts] | type[OneDnnProducts], q: Tensor, k: Tensor, v: Tensor, scale: float, need_lse: bool
) -> Attended:
    """One head after another, in tiles of rows. The log-sum-exp comes from what softmax leaves: a row's largest weight
    is exp(largest score − lse)."""
    batch, queries, heads, dim = q.shape
    keys = k.shape[1]
    tiles = -(-queries // max(MIN_ROWS, TILE_SCORES // keys))
    rows = -(-queries // tiles)
    each: Products = products(keys, dim, rows, q.dtype)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = q.new_empty((batch, heads, queries), dtype=torch.float32) if need_lse else None
    scaled = torch.empty(batch, heads, queries, dim).copy_(q.transpose(1, 2)).mul_(scale)
    for row, head in ((b, h) for b in range(batch) for h in range(heads)):
        each.take(k[row, :, head], v[row, :, head])
        for start in range(0, queries, rows):
            scores = each.scores(scaled[row, head, start : start + rows])
            largest = scores.amax(-1) if need_lse else None
            weights = torch.softmax(scores, -1, out=scores)
            if lse is not None and largest is not None:
                torch.sub(largest, weights.amax(-1).log_(), out=lse[row, head, start : start + rows])
            out[row, start : start + rows, head] = each.values(weights)
    return out, lse


def attend_tiles(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """Products by `torch.mm`; shapes as in `attend_reference`."""
    return _attend_in_tiles(BlasProducts, q, k, v, scale, need_lse)


def attend_onednn(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """Products by oneDNN; shapes as in `attend_reference`."""
    return _attend_in_tiles(OneDnnProducts, q, k, v, scale, need_lse)


def _no_onednn() -> str:
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    return "" if hasattr(torch.ops.mkldnn, "_linear_pointwise") else "this torch has no _linear_pointwise"


BACKENDS = (
    Backend(
        name="cpu-flash",
        what="torch's flash kernel for CPUs",
        run=attend_flash,
        constraints=Constraints(devices=CPU),
        unavailable_reason=lambda: _has("_scaled_dot_product_flash_attention_for_cpu"),
    ),
    Backend(
        name="cpu-tiles",
        what="matrix products in tiles that stay in a CPU's caches",
        run=attend_tiles,
        constraints=Constraints(devices=CPU),
    ),
    Backend(
        name="cpu-onednn",
        what="the same tiles with products by oneDNN",
        run=attend_onednn,
        constraints=Constraints(devices=CPU),
        unavailable_reason=_no_onednn,
    ),
)
