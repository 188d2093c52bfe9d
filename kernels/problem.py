"""Description of an attention call: plain data that constraints are checked against and choices are kept by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .key_tiles import KeyTiles

# Calls with this many queries keep any device busy: their time is proportional to the queries, and the backend that is
# the fastest at this number is so for all of them. With fewer queries another backend may be faster.
MANY_QUERIES = 4096


@dataclass(frozen=True)
class Problem:
    """A call with q `[B, M, H, D]`, k and v `[B, N, H, D]`.

    need_lse: returns the log-sum-exp too; key_tiles: attends only to listed tiles of keys; usual_tiles: these have the
    sizes that kernels are compiled for; rest: with a term for all others.
    """

    device: torch.device
    dtype: torch.dtype
    batch: int
    queries: int
    keys: int
    heads: int
    head_dim: int
    need_lse: bool = False
    key_tiles: bool = False
    usual_tiles: bool = True
    rest: bool = False

    @staticmethod
    def of(
        q: Tensor, k: Tensor, v: Tensor, *, need_lse: bool = False, key_tiles: KeyTiles | bool | None = None
    ) -> Problem:
        """Describe a call with these tensors. key_tiles: its lists, or whether it has some.

        Raises ValueError where their shapes, dtypes or devices differ.
        """
        if q.ndim != 4 or k.ndim != 4:
            raise ValueError(f"attention takes q [B, M, H, D] and k, v [B, N, H, D]; q has {q.ndim} dimensions")
        if k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
            raise ValueError(
                f"q {list(q.shape)}, k {list(k.shape)} and v {list(v.shape)} differ in more than the number of rows"
            )
        if not (q.dtype == k.dtype == v.dtype and q.device == k.device == v.device):
            raise ValueError(
                f"q, k and v differ in type or device: {q.dtype} on {q.device}, {k.dtype} on {k.device}, "
                f"{v.dtype} on {v.device}"
            )
        batch, queries, heads, head_dim = q.shape
        return Problem(q.device, q.dtype, batch, queries, k.shape[1], heads, head_dim, need_lse, *_lists(key_tiles))

    @property
    def kind(self) -> Problem:
        """The calls that share a choice of backend: few queries or many, keys rounded up to a power of two."""
        queries = MANY_QUERIES if self.has_many_queries else 0
        return replace(self, batch=1, queries=queries, keys=1 << max(0, self.keys - 1).bit_length())

    @property
    def has_many_queries(self) -> bool:
        return self.queries >= MANY_QUERIES

    @property
    def operations(self) -> float:
        """Floating-point operations of the two products."""
        return 4.0 * self.batch * self.heads * self.queries * self.keys * self.head_dim


def _lists(key_tiles: KeyTiles | bool | None) -> tuple[bool, bool, bool]:
    """Return whether there are lists, of the usual sizes, with a term for the rest."""
    if isinstance(key_tiles, KeyTiles):
        return True, key_tiles.has_usual_sizes, key_tiles.rest is not None
    return bool(key_tiles), True, False


def is_hip() -> bool:
    """Tell whether torch's `cuda` devices are AMD's."""
    return getattr(torch.version, "hip", None) is not None
