"""The pack's own Triton kernels as backends. Triton itself is imported at first use."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..backend import FLOATS, AttentionOutput, Backend, Constraints
from ..key_tiles import KeyTiles
from ..problem import Problem
from ..triton_attention import launch, unavailable_reason, unsupported_reason

RANK = 30  # after torch's own kernels
DEVICES = frozenset({"cuda", "cpu"})  # CPU: for Triton's interpreter
PACKAGES = ("triton", "triton-windows")


def attend_pointer(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles | None = None
) -> AttentionOutput:
    """Compute by the kernel with pointer loads; shapes as in `attend_reference`."""
    q, k, v = _align(q, k, v)
    return launch.attend_pointer(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles)


def attend_tma(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute by the kernel with tensor descriptors. A tensor that they cannot describe (an expanded one) is copied."""
    q, k, v = _align(q, k, v)
    k, v = (_copy(tensor) if launch.descriptor_error(tensor) else tensor for tensor in (k, v))
    return launch.attend_tma(q, k, v, scale=scale, need_lse=need_lse)


def attend_int8(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles | None = None
) -> AttentionOutput:
    """Compute by the kernel with 8-bit scores; shapes as in `attend_reference`."""
    q, k, v = _align(q, k, v)
    return launch.attend_int8(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles)


def _align(*tensors: Tensor) -> list[Tensor]:
    """Copy the tensors whose rows are not aligned to 16 bytes: kernels compiled for unaligned rows spill registers."""
    return [tensor if _is_aligned(tensor) else _copy(tensor) for tensor in tensors]


def _is_aligned(tensor: Tensor) -> bool:
    return not (tensor.data_ptr() % 16 or any(tensor.stride(dim) * tensor.element_size() % 16 for dim in range(3)))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _check(dense: str, tiles: str, problem: Problem) -> str:
    """Return why the kernel for all keys, or that for listed tiles, cannot compute a call."""
    return unsupported_reason(tiles if problem.key_tiles else dense, problem.device, problem.dtype, problem.head_dim)


_triton = partial(Backend, unavailable_reason=unavailable_reason, packages=PACKAGES)
BACKENDS = (
    _triton(
        name="triton",
        what="the pack's Triton kernel",
        run=attend_pointer,
        constraints=Constraints(DEVICES, FLOATS, key_tiles=True),
        extra_check=partial(_check, "pointer", "tiles"),
    ),
    _triton(
        name="triton-tma",
        what="the pack's Triton kernel with the tensor memory accelerator of Hopper and later",
        run=attend_tma,
        constraints=Constraints(DEVICES, FLOATS, amd=False),
        extra_check=lambda problem: unsupported_reason("tma", problem.device, problem.dtype, problem.head_dim),
    ),
    _triton(
        name="triton-int8",
        what="the pack's Triton kernel with 8-bit scores and fp16 sums",
        run=attend_int8,
        constraints=Constraints(DEVICES, FLOATS, amd=False, key_tiles=True),
        extra_check=partial(_check, "int8", "int8_tiles"),
        exact=False,
    ),
)
