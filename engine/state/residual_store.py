"""Residuals kept between steps: one `[rows, N, dim]` tensor per block and slot, in the model's dtype or in 8 bit.

A store knows its bytes before it allocates. Step-skipping schedules allocate none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import BudgetError
from ...kernels import OUT_OF_MEMORY

AUTO_CACHE, FULL_CACHE, FP8_HOST_CACHE, NO_CACHE = "auto", "full", "fp8-host", "none"
CACHE_POLICIES = (AUTO_CACHE, FULL_CACHE, "fp8", FP8_HOST_CACHE, NO_CACHE)
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
MIN_SCALE = torch.finfo(torch.float32).tiny
VALUES_AT_ONCE = 2**22  # converted between fp8 and the model's dtype: 16 MiB in fp32


def alone(level: int) -> int:
    """Agree with nobody: the run is one process."""
    return level


@dataclass(frozen=True)
class CachePolicy:
    """Device and format of kept residuals. When memory is short, a policy steps down in this order:

    full (the model's dtype on the device) → fp8 (8 bit, a scale per token) → fp8-host (8 bit in CPU memory) →
    none (nothing per block: only full and skipped steps). "auto" starts at full.
    """

    name: str = AUTO_CACHE

    def __post_init__(self) -> None:
        if self.name not in CACHE_POLICIES:
            raise BudgetError(f"Cache policy {self.name!r} is unknown; choose one of {', '.join(CACHE_POLICIES)}.")

    def ladder(self) -> tuple[str, ...]:
        """Return the policies to try, best first."""
        start = FULL_CACHE if self.name == AUTO_CACHE else self.name
        return CACHE_POLICIES[CACHE_POLICIES.index(start) :]


@dataclass(frozen=True)
class StoreSize:
    """Size of one conditioning's store: so many tensors `[rows, tokens, dim]`."""

    tensors: int
    rows: int
    tokens: int
    dim: int

    def bytes(self, policy: str, dtype: torch.dtype) -> int:
        """Return the bytes under a cache policy; the fp8 ones have an fp32 scale per token."""
        if policy == NO_CACHE:
            return 0
        per_token = self.dim * dtype.itemsize if policy == FULL_CACHE else self.dim + 4
        return self.tensors * self.rows * self.tokens * per_token


def quantise(x: Tensor, values: Tensor, scales: Tensor) -> None:
    """Write `x [rows, N, dim]` into fp8 `values` and fp32 `scales [rows, N, 1]`, which may lie on another device."""
    for own, kept, factors in _in_parts(x, values, scales):
        exact = own.float()
        # In fp16 the scale of a token below 1.3e-5 would be 0, and a token of zeros has none at all.
        scale = exact.abs().amax(-1, keepdim=True).div_(FP8_MAX).clamp_min_(MIN_SCALE)
        kept.copy_((exact / scale).clamp_(-FP8_MAX, FP8_MAX).to(FP8), non_blocking=True)
        factors.copy_(scale)


def dequantise(values: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return fp8 `values [rows, N, dim]` times fp32 `scales [rows, N, 1]`, multiplied in fp32, in `dtype`."""
    result = torch.empty(values.shape, dtype=dtype, device=values.device)
    for kept, factors, own in _in_parts(values, scales, result):
        torch.mul(kept.float(), factors, out=own)
    return result


def _in_parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield parts `[n, …]` of tensors `[rows, N, …]`, of at most VALUES_AT_ONCE values each but at least one token."""
    tokens = max(1, VALUES_AT_ONCE // max(each.shape[-1] for each in tensors))
    for row in zip(*tensors, strict=True):
        yield from zip(*(each.split(tokens) for each in row), strict=True)


class ResidualStore:
    """The kept residuals of one conditioning under one policy ("full", "fp8" or "fp8-host").

    Raises torch's out-of-memory error from the constructor, before anything is kept.
    """

    def __init__(self, size: StoreSize, policy: str, dtype: torch.dtype, device: torch.device):
        self.size, self.policy, self.dtype, self.device = size, policy, dtype, device
        shape = (size.rows, size.tokens, size.dim)
        home = torch.device("cpu") if policy == FP8_HOST_CACHE else device
        pinned = policy == FP8_HOST_CACHE and device.type == "cuda"
        kept = dtype if policy == FULL_CACHE else FP8
        # Zeros, not `empty`: estimators read a second slot that was never written, with weight 0, and 0 · NaN is NaN.
        self._values = [torch.zeros(shape, dtype=kept, device=home, pin_memory=pinned) for _ in range(size.tensors)]
        self._scales = [
            torch.zeros((*shape[:2], 1), dtype=torch.float32, device=home, pin_memory=pinned)
            for _ in range(size.tensors if policy != FULL_CACHE else 0)
        ]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self._values, *self._scales))

    @property
    def is_live(self) -> bool:
        """Tell whether `read` returns the kept tensor itself, so that changes to it need no `write`."""
        return self.policy == FULL_CACHE

    def read(self, index: int) -> Tensor:
        """Return a residual `[rows, N, dim]` in the model's dtype: the kept tensor if `is_live`, else a new one."""
        values = self._values[index]
        if self.is_live:
            return values
        scales = self._scales[index].to(self.device, non_blocking=True)
        return dequantise(values.to(self.device, non_blocking=True), scales, self.dtype)

    def write(self, index: int, residual: Tensor) -> None:
        """Keep a residual `[rows, N, dim]`."""
        values = self._values[index]
        if residual is values:
            return
        if self.is_live:
            values.copy_(residual)
        else:
            quantise(residual, values, self._scales[index])

    def write_difference(self, index: int, output: Tensor, entry: Tensor) -> None:
        """Keep output − entry, without a temporary where the store is live."""
        if self.is_live and output.dtype == self.dtype:
            torch.sub(output, entry, out=self._values[index])
        else:
            self.write(index, output - entry)

    def swap(self, first: int, second: int) -> None:
        """Exchange two kept tensors without copying."""
        for kept in (self._values, self._scales):
            if kept:
                kept[first], kept[second] = kept[second], kept[first]


def allocate(
    size: StoreSize,
    ladder: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
    agree: Callable[[int], int] = alone,
) -> tuple[ResidualStore | None, str]:
    """Allocate a store by the first policy of the ladder that fits in memory; returns also why earlier ones did not.

    The reason is "" for the first policy. The store is None when nothing fits, or where the policy is "none".
    agree: returns the largest of the numbers that all processes of a run give it: all of them keep a store of the same
    policy, or none.
    """
    failed: list[str] = []
    store, level, agreed = None, 0, -1
    while True:
        while store is None and ladder[level] != NO_CACHE:
            store = _try_to_allocate(size, ladder[level], dtype, device)
            if store is None:
                failed.append(f"the {ladder[level]} store ({size.bytes(ladder[level], dtype) / 2**20:.0f} MiB)")
                level += 1
        largest = agree(level)
        if largest in (0, agreed):  # the second time nobody needed a further step
            break
        if largest > level:
            failed.append(f"the {ladder[level]} store, on another GPU")
            store, level = None, largest
        agreed = largest
    return store, _no_memory(failed) or ("" if store is not None else "the cache is switched off")


def _try_to_allocate(size: StoreSize, policy: str, dtype: torch.dtype, device: torch.device) -> ResidualStore | None:
    """Return a store, or None where memory is short."""
    try:
        return ResidualStore(size, policy, dtype, device)
    except (OUT_OF_MEMORY, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_memory_error(error):
            raise
        return None


def _no_memory(failed: list[str]) -> str:
    return f"no memory for {' and '.join(failed)}" if failed else ""


def _is_memory_error(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, OUT_OF_MEMORY) or "out of memory" in text or "can't allocate memory" in text
