"""Attention on a CPU: torch's flash kernel, and tiles of rows multiplied by torch's BLAS or by oneDNN.

The fastest depends on the CPU: oneDNN uses 512-bit vectors where a BLAS made for another maker's CPUs does not, and
tiles keep all threads busy where heads are few. fp16 is computed in fp32: CPUs would emulate fp16 products.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from ..backend import AttentionOutput, Backend, Constraints, missing_operator

RANK = 40  # after all GPU backends
CPU = frozenset({"cpu"})
TILE_SCORES = 3 << 19  # fp32 scores of one tile: 6 MiB
MIN_ROWS = 128


def attend_flash(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute by the flash kernel of torch; shapes as in `attend_reference`."""
    dtype = q.dtype
    if dtype == torch.float16:
        q, k, v = q.float(), k.float(), v.float()
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = flash(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
    return out.transpose(1, 2).to(dtype), lse.float() if need_lse else None


class Products(Protocol):
    """The two matrix products of attention, for one head at a time; constructed for a number of keys and rows."""

    def load_head(self, k: Tensor, v: Tensor) -> None:
        """Set the head's k and v, `[N, D]`."""

    def scores(self, rows: Tensor) -> Tensor:
        """Return rows kᵀ, fp32 `[m, N]`, of fp32 rows `[m, D]`. The caller may write into it until the next call."""

    def values(self, weights: Tensor) -> Tensor:
        """Return weights v, `[m, D]`, of fp32 weights `[m, N]`."""


class BlasProducts:
    """Products by `torch.mm`, which takes strided rows as they are. All tiles share one buffer for scores."""

    def __init__(self, keys: int, dim: int, rows: int, dtype: torch.dtype):
        self._buffer = torch.empty(rows, keys)
        self._weights_dtype = _weights_dtype(dtype)

    def load_head(self, k: Tensor, v: Tensor) -> None:
        self._k, self._v = k.float().t(), v.to(self._weights_dtype)

    def scores(self, rows: Tensor) -> Tensor:
        return torch.mm(rows, self._k, out=self._buffer[: rows.shape[0]])

    def values(self, weights: Tensor) -> Tensor:
        return torch.mm(weights.to(self._weights_dtype), self._v)


class OneDnnProducts:
    """Products by oneDNN's inner product, as in compiled code of torch. It needs contiguous k and v: two buffers."""

    def __init__(self, keys: int, dim: int, rows: int, dtype: torch.dtype):
        self._k_buffer, self._v_buffer = torch.empty(keys, dim), torch.empty(keys, dim, dtype=_weights_dtype(dtype))

    def load_head(self, k: Tensor, v: Tensor) -> None:
        self._k, self._v = _as_contiguous(k, self._k_buffer), v

    def scores(self, rows: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self._k, None, "none", [], "")

    def values(self, weights: Tensor) -> Tensor:
        # Copied only now: the keys have left the CPU's cache.
        self._v = _as_contiguous(self._v, self._v_buffer)
        if self._v.dtype == torch.bfloat16:
            return torch.mm(weights.to(torch.bfloat16), self._v)
        return torch.ops.mkldnn._linear_pointwise(weights, self._v.t(), None, "none", [], "")


def inner_product(rows: Tensor, weights: Tensor) -> Tensor:
    """Return rows weightsᵀ, `[m, n]`, of fp32 `[m, K]` and `[n, K]`: by oneDNN where this torch has it."""
    if can_use_onednn() and rows.numel() and weights.numel():
        return torch.ops.mkldnn._linear_pointwise(rows, weights, None, "none", [], "")
    return torch.mm(rows, weights.t())


def _as_contiguous(x: Tensor, buffer: Tensor) -> Tensor:
    """Return x if it is contiguous and of the buffer's dtype, else its copy in the buffer."""
    return x if x.is_contiguous() and x.dtype == buffer.dtype else buffer.copy_(x)


def _weights_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the second product: bf16 for bf16 inputs, as in all flash kernels."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def _attend_in_tiles(
    products: type[BlasProducts] | type[OneDnnProducts], q: Tensor, k: Tensor, v: Tensor, scale: float, need_lse: bool
) -> AttentionOutput:
    """Compute one head after another, in tiles of rows; shapes as in `attend_reference`.

    The log-sum-exp comes from the softmax: the largest weight of a row is exp(largest score − lse).
    """
    batch, queries, heads, dim = q.shape
    keys = k.shape[1]
    tiles = -(-queries // max(MIN_ROWS, TILE_SCORES // keys))
    rows = -(-queries // tiles)
    product: Products = products(keys, dim, rows, q.dtype)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = q.new_empty((batch, heads, queries), dtype=torch.float32) if need_lse else None
    scaled = torch.empty(batch, heads, queries, dim).copy_(q.transpose(1, 2)).mul_(scale)
    for row, head in ((b, h) for b in range(batch) for h in range(heads)):
        product.load_head(k[row, :, head], v[row, :, head])
        for start in range(0, queries, rows):
            scores = product.scores(scaled[row, head, start : start + rows])
            largest = scores.amax(-1) if need_lse else None
            weights = torch.softmax(scores, -1, out=scores)
            if lse is not None and largest is not None:
                torch.sub(largest, weights.amax(-1).log_(), out=lse[row, head, start : start + rows])
            out[row, start : start + rows, head] = product.values(weights)
    return out, lse


def attend_tiles(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute in tiles, multiplied by `torch.mm`; shapes as in `attend_reference`."""
    return _attend_in_tiles(BlasProducts, q, k, v, scale, need_lse)


def attend_onednn(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute in tiles, multiplied by oneDNN; shapes as in `attend_reference`."""
    return _attend_in_tiles(OneDnnProducts, q, k, v, scale, need_lse)


@cache
def can_use_onednn() -> bool:
    return not _missing_onednn()


def _missing_onednn() -> str:
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    return "" if hasattr(torch.ops.mkldnn, "_linear_pointwise") else "this torch has no _linear_pointwise"


BACKENDS = (
    Backend(
        name="cpu-flash",
        what="torch's flash kernel for CPUs",
        run=attend_flash,
        constraints=Constraints(devices=CPU),
        unavailable_reason=lambda: missing_operator("_scaled_dot_product_flash_attention_for_cpu"),
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
        unavailable_reason=_missing_onednn,
    ),
)
