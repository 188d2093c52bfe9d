"""Linear layers by oneDNN's inner product: on some CPUs 1.4 times as fast as what torch takes, equal to rounding.

For searches of a thousand runs only; nothing that measures time uses it.
"""

from __future__ import annotations

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
