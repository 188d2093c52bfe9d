"""Residuals kept between steps: one `[rows, N, dim]` tensor per block, in model dtype or in 8 bit.

Knows its bytes before it allocates. Nothing is allocated for schedules without fractional budgets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
LEAST_SCALE = torch.finfo(torch.float32).tiny
VALUES_AT_ONCE = 2**22  # between fp8 and the model's dtype lies fp32: in parts, so that it takes 16 MiB and no more


@dataclass(frozen=True)
class StoreSize:
    """What one branch keeps: so many tensors `[rows, tokens, dim]`."""

    tensors: int
    rows: int
    tokens: int
    dim: int

    def bytes(self, policy: str, dtype: torch.dtype) -> int:
        """Bytes under a cache policy: `full` in the model's dtype, the fp8 ones with an fp32 scale per token."""
        if policy == "none":
            return 0
        per_token = self.dim * dtype.itemsize if policy == "full" else self.dim + 4
        return self.tensors * self.rows * self.tokens * per_token


def quantise(x: Tensor, values: Tensor, scales: Tensor) -> None:
    """Write `x [rows, N, dim]` into fp8 `values` and fp32 `scales [rows, N, 1]`, which may lie on another device."""
    for own, kept, factors in _in_parts(x, values, scales):
        exact = own.float()
        # In fp16 the scale of a token below 1.3e-5 would be 0, and a token of zeros has none at all.
        scale = exact.abs().amax(-1, keepdim=True).div_(FP8_MAX).clamp_min_(LEAST_SCALE)
        kept.copy_((exact / scale).clamp_(-FP8_MAX, FP8_MAX).to(FP8), non_blocking=True)
        factors.copy_(scale)


def dequantise(values: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """fp8 `values [rows, N, dim]` times fp32 `scales [rows, N, 1]`, in `dtype`; the product is made in fp32."""
    result = torch.empty(values.shape, dtype=dtype, device=values.device)
    for kept, factors, own in _in_parts(values, scales, result):
        torch.mul(kept.float(), factors, out=own)
    return result


def _in_parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors `[rows, N, …]` in parts `[n, …]` of at most VALUES_AT_ONCE values, at least a token."""
    tokens = max(1, VALUES_AT_ONCE // max(each.shape[-1] for each in tensors))
    for row in zip(*tensors, strict=True):
        yield from zip(*(each.split(tokens) for each in row), strict=True)


class ResidualStore:
    """The kept residuals of one branch under one policy ("full", "fp8" or "fp8-host").

    Raises torch's out-of-memory error from the constructor, before anything is kept.
    """

    def __init__(self, size: StoreSize, policy: str, dtype: torch.dtype, device: torch.device):
        self.size, self.policy, self.dtype, self.device = size, policy, dtype, device
        shape = (size.rows, size.tokens, size.dim)
        home = torch.device("cpu") if policy == "fp8-host" else device
        pinned = policy == "fp8-host" and device.type == "cuda"
        kept = dtype if policy == "full" else FP8
        # Zeros, not what memory held: a second value that was never written is read with weight 0, and 0 · NaN is NaN.
        self._values = [torch.zeros(shape, dtype=kept, device=home, pin_memory=pinned) for _ in range(size.tensors)]
        self._scales = [
            torch.zeros((*shape[:2], 1), dtype=torch.float32, device=home, pin_memory=pinned)
            for _ in range(size.tensors if policy != "full" else 0)
        ]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self._values, *self._scales))

    @property
    def is_live(self) -> bool:
        """Whether `read` returns the kept tensor itself, so that changes to it need no `write`."""
        return self.policy == "full"

    def read(self, index: int) -> Tensor:
        """`[rows, N, dim]` in the model's dtype; the kept tensor itself when `is_live`, else a new one."""
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
    size: StoreSize, ladder: tuple[str, ...], dtype: torch.dtype, device: torch.device
) -> tuple[ResidualStore | None, str]:
    """The best store that can be had, and why it is not a better one ("" if it is the first choice).

    Steps down the ladder when an allocation fails; None when nothing fits or the ladder says "none".
    """
    refused: list[str] = []
    for policy in ladder:
        if policy == "none":
            break
        try:
            return ResidualStore(size, policy, dtype, device), _no_memory(refused)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_memory_error(error):
                raise
            refused.append(f"the {policy} store ({size.bytes(policy, dtype) / 2**20:.0f} MiB)")
    return None, _no_memory(refused) or "the cache is switched off"


def _no_memory(refused: list[str]) -> str:
    return f"no memory for {' and '.join(refused)}" if refused else ""


def _is_memory_error(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
