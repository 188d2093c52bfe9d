"""Backends of attention: the function that computes it, the calls it supports, and why it is unavailable, if it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .key_tiles import KeyTiles
from .problem import Problem, is_hip

AttentionOutput = tuple[Tensor, "Tensor | None"]  # out `[B, M, H, D]`, log-sum-exp `[B, H, M]` or None
HALF = frozenset({torch.float16, torch.bfloat16})
FLOATS = HALF | {torch.float32}


def always_available() -> str:
    return ""


def no_extra_check(problem: Problem) -> str:
    return ""


def missing_operator(name: str) -> str:
    """Return why torch's private operator of that name cannot be called; "" if it can."""
    return "" if hasattr(torch.ops.aten, name) else f"this torch has no {name}"


@dataclass(frozen=True)
class Constraints:
    """Calls that a backend supports; a field that is None allows any.

    devices: torch device types; capability: minimum compute capability of NVIDIA devices; head_dims, max_head_dim,
    head_dim_multiple: sizes of D; amd: runs on AMD devices, which torch calls `cuda` too; lse: returns the log-sum-exp;
    key_tiles: takes lists of key tiles; any_tiles: also of other sizes; dense: takes calls without such lists.
    """

    devices: frozenset[str] | None = None
    dtypes: frozenset[torch.dtype] = FLOATS
    capability: tuple[int, int] | None = None
    head_dims: frozenset[int] | None = None
    max_head_dim: int | None = None
    head_dim_multiple: int = 1
    amd: bool = True
    lse: bool = True
    key_tiles: bool = False
    any_tiles: bool = False
    dense: bool = True

    def unsupported_reason(self, problem: Problem) -> str:
        """Return why a call is not supported; "" if it is."""
        device, dim = problem.device, problem.head_dim
        if self.devices is not None and device.type not in self.devices:
            return f"runs on {' and '.join(sorted(self.devices))}, not on {device.type}"
        if device.type == "cuda" and is_hip():
            if not self.amd:
                return "not for AMD devices"
        elif device.type == "cuda" and self.capability is not None:
            found = torch.cuda.get_device_capability(device)
            if found < self.capability:
                needed = ".".join(map(str, self.capability))
                return f"needs compute capability {needed}, the device has {found[0]}.{found[1]}"
        if problem.dtype not in self.dtypes:
            return f"not for {_short(problem.dtype)}"
        if self.head_dims is not None and dim not in self.head_dims:
            return f"for head sizes {' and '.join(map(str, sorted(self.head_dims)))}, not {dim}"
        if dim % self.head_dim_multiple or dim > (self.max_head_dim or dim):
            most = f" up to {self.max_head_dim}" if self.max_head_dim else ""
            return f"for head sizes in multiples of {self.head_dim_multiple}{most}, not {dim}"
        if problem.need_lse and not self.lse:
            return "returns no log-sum-exp"
        if problem.key_tiles and not self.key_tiles:
            return "takes no key tiles"
        if not problem.key_tiles and not self.dense:
            return "takes calls with key tiles only"
        if not problem.usual_tiles and not self.any_tiles:
            return "takes key tiles of the usual sizes only"
        return ""


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Backend:
    """An implementation of attention.

    what: a description for users. run: `run(q, k, v, *, scale, need_lse)`, with `key_tiles` where the constraints allow
    it; see `kernels.attend` for shapes. unavailable_reason: returns why it cannot be used in this process, "" if it
    can; never raises. extra_check: returns why it cannot compute a call that the constraints allow. exact: as accurate
    as the call's dtype; other backends are used only under `fast` or by name. last_resort: used only where no other can
    be. is_hosts: trusted, as the host runs it anyway. packages: distributions whose version changes its speed.
    """

    name: str
    what: str
    run: Callable[..., AttentionOutput]
    constraints: Constraints
    unavailable_reason: Callable[[], str] = always_available
    extra_check: Callable[[Problem], str] = no_extra_check
    exact: bool = True
    last_resort: bool = False
    is_hosts: bool = False
    packages: tuple[str, ...] = ()

    def unsupported_reason(self, problem: Problem) -> str:
        """Return why it cannot compute this call; "" if it can."""
        return self.constraints.unsupported_reason(problem) or self.unavailable_reason() or self.extra_check(problem)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles | None = None
    ) -> AttentionOutput:
        if key_tiles is None:
            return self.run(q, k, v, scale=scale, need_lse=need_lse)
        return self.run(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles)
