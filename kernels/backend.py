"""One way to compute attention: what it can do, why it is not there, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .key_tiles import KeyTiles
from .problem import Problem, is_hip

Attended = tuple[Tensor, "Tensor | None"]
HALF = frozenset({torch.float16, torch.bfloat16})
FLOATS = HALF | {torch.float32}


def nothing_missing() -> str:
    return ""


def nothing_further(problem: Problem) -> str:
    return ""


@dataclass(frozen=True)
class Constraints:
    """What a backend can be asked for; None means anything.

    devices: torch device types; capability: the least compute capability on NVIDIA devices; most_head_dim and
    head_dim_multiple: sizes of D; amd: whether it runs where torch's `cuda` is AMD's; lse: whether it returns the
    log-sum-exp; key_tiles: whether it takes lists of key tiles.
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

    def unsupported_reason(self, problem: Problem) -> str:
        """Why a call is beyond these limits; "" if it is not."""
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
        return ""


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    run: `run(q, k, v, *, scale, need_lse)` (and `key_tiles` where the constraints allow it) → out, lse or None.
    unavailable_reason: why it cannot be used in this process, "" if it can; asked once, never raises.
    extra_check: why it cannot do a certain call, beyond its constraints.
    exact: whether it keeps to the accuracy of the call's dtype; those that do not are used only where speed is asked
    for before accuracy. last_resort: always right, and taken only where nothing else is. skip_selftest: runs here
    anyway, so that nothing is risked by trying it.
    """

    name: str
    what: str
    run: Callable[..., Attended]
    constraints: Constraints
    unavailable_reason: Callable[[], str] = nothing_missing
    extra_check: Callable[[Problem], str] = nothing_further
    exact: bool = True
    last_resort: bool = False
    skip_selftest: bool = False

    def unsupported_reason(self, problem: Problem) -> str:
        """Why it cannot compute this call; "" if it can."""
        return self.constraints.unsupported_reason(problem) or self.unavailable_reason() or self.extra_check(problem)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles | None = None
    ) -> Attended:
        if key_tiles is None:
            return self.run(q, k, v, scale=scale, need_lse=need_lse)
        return self.run(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles)
