"""Weights of the host's models, wherever it keeps them: offloaded, in another dtype, patched as they are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor

# Classes whose forward is a product with the weights that `cast_bias_weight` gives. Quantised and foreign ones differ.
PLAIN_LINEARS = (comfy.ops.disable_weight_init.Linear, comfy.ops.manual_cast.Linear)
_OFFLOADABLE = "offloadable" in inspect.signature(comfy.ops.cast_bias_weight).parameters


class LinearSlices:
    """Parts of the host's plain Linears; implements `models.linears.Slices`."""

    def possible(self, linear: Any) -> bool:
        if type(linear) not in PLAIN_LINEARS or linear._forward_hooks or linear._forward_pre_hooks:
            return False
        return not {"forward", "forward_comfy_cast_weights"} & vars(linear).keys()

    def compute(self, linear: Any, wanted: Sequence[tuple[Tensor, slice]]) -> list[Tensor]:
        with _weights(linear, wanted[0][0]) as (weight, bias):
            return [
                torch.nn.functional.linear(x, weight[channels], None if bias is None else bias[channels])
                for x, channels in wanted
            ]


class HostCast:
    """Weights as models need them; implements `models.architecture.Cast`."""

    slices = LinearSlices()

    def __call__(self, parameter: Tensor, like: Tensor) -> Tensor:
        return comfy.model_management.cast_to(parameter, dtype=like.dtype, device=like.device)


cast_like = HostCast()


@contextmanager
def _weights(linear: Any, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Within the context a layer's weight and bias, in `like`'s dtype and on its device."""
    if not _OFFLOADABLE:
        yield comfy.ops.cast_bias_weight(linear, like)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(linear, like, offloadable=True)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(linear, weight, bias, stream)
