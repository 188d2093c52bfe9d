"""The pack's own Triton kernels as backends. Triton itself is imported when one is first asked for."""

from __future__ import annotations

from torch import Tensor

from .backend import FLOATS, Attended, Backend, Constraints
from .key_tiles import KeyTiles
from .problem import Problem
from .triton_attention import launch

DEVICES = frozenset({"cuda", "cpu"})  # a CPU only for the interpreter


def attend_pointer(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles | None = None
) -> Attended:
    return launch.attend_pointer(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles)


def attend_tma(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    """Keys or values whose layout the hardware cannot describe are copied first: a pass that costs 0.5 % at most."""
    k, v = (tensor.contiguous() if launch.why_no_descriptor(tensor) else tensor for tensor in (k, v))
    return launch.attend_tma(q, k, v, scale=scale, need_lse=need_lse)


def attend_int8(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> Attended:
    return launch.attend_int8(q, k, v, scale=scale, need_lse=need_lse)


def _no_pointer(problem: Problem) -> str:
    kind = "tiles" if problem.key_tiles else "pointer"
    return launch.why_not(kind, problem.device, problem.dtype, problem.head_dim)


BACKENDS = (
    Backend(
        name="triton",
        what="the pack's Triton kernel",
        run=attend_pointer,
        constraints=Constraints(DEVICES, FLOATS, key_tiles=True),
        missing=launch.missing,
        further=_no_pointer,
    ),
    Backend(
        name="triton-tma",
        what="the pack's Triton kernel with the tensor memory accelerator of Hopper",
        run=attend_tma,
        constraints=Constraints(DEVICES, FLOATS, amd=False),
        missing=launch.missing,
        further=lambda problem: launch.why_not("tma", problem.device, problem.dtype, problem.head_dim),
    ),
    Backend(
        name="triton-int8",
        what="the pack's Triton kernel with 8-bit scores and fp16 sums",
        run=attend_int8,
        constraints=Constraints(DEVICES, FLOATS, amd=False),
        missing=launch.missing,
        further=lambda problem: launch.why_not("int8", problem.device, problem.dtype, problem.head_dim),
        exact=False,
    ),
)
