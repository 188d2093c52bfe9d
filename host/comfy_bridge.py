"""Small services of the host in the shapes that `models` and `engine` expect."""

from __future__ import annotations

from typing import Any

import comfy.model_management
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ..engine.blocks import Attend
from ..kernels import attend as attend_with_lse


def cast_like(parameter: Tensor, like: Tensor) -> Tensor:
    """A bare parameter in another tensor's dtype and on its device, wherever the host keeps it."""
    return comfy.model_management.cast_to(parameter, dtype=like.dtype, device=like.device)


def host_attention(transformer_options: dict[str, Any]) -> Attend:
    """The host's own attention, with the user's override; the pack's kernels where a log-sum-exp is needed."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *, need_lse: bool = False) -> tuple[Tensor, Tensor | None]:
        if need_lse:
            return attend_with_lse(q, k, v, need_lse=True)
        heads = q.shape[2]
        joined = (t.flatten(2) for t in (q, k, v))
        out = optimized_attention(*joined, heads=heads, transformer_options=transformer_options)
        return out.unflatten(-1, (heads, -1)), None

    return attend
