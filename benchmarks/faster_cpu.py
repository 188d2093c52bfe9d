"""Products that some CPUs are faster at than at those that torch takes by itself. Nothing that measures time uses it.

For searches of a thousand runs: linear layers by oneDNN's inner product, 1.4 times as fast and equal to rounding; and,
where a search only has to rank runs, linear layers and attention from bfloat16 factors, as on a GPU: 1.5 times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST_ROWS = 64


def use_onednn() -> None:
    """From here on, in this process."""
    shipped = F.linear

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.numel() // max(1, x.shape[-1])
        if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.ndim < 2 or rows < FEWEST_ROWS:
            return shipped(x, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")

    F.linear = linear  # type: ignore[assignment]


@contextlib.contextmanager
def bfloat16_products() -> Iterator[None]:
    """Within it factors of linear layers and of attention are rounded to bfloat16; sums and the rest stay fp32."""
    shipped = F.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        return shipped(q.bfloat16(), k.bfloat16(), v.bfloat16(), *args, **options).to(q.dtype)

    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        F.scaled_dot_product_attention = shipped
        products.fp32_precision = before
