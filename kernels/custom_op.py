"""Attention as one operator of torch, so that torch.compile traces neither the dispatcher nor the kernels.

Only compiled code calls the operator: elsewhere a plain call costs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .dispatch import Dispatcher
from .key_tiles import KEY_TILE, QUERY_TILE, KeyTiles

DISPATCHER = Dispatcher()
NAME = "astraea::attend"
NO_LISTS = (None,) * 7  # of `KeyTiles.tensors`


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    need_lse: bool,
    preference: str,
    lists: Sequence[Tensor | None] = NO_LISTS,
    sizes: Sequence[int] = (QUERY_TILE, KEY_TILE),
) -> tuple[Tensor, Tensor]:
    key_tiles = KeyTiles.from_tensors(lists, sizes)
    out, lse = DISPATCHER.attend(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles, preference=preference)
    # As `_fake` promises the compiler: contiguous, and never an input.
    return out.contiguous(), q.new_empty(0, dtype=torch.float32) if lse is None else lse.contiguous()


def _fake(q: Tensor, k: Tensor, v: Tensor, scale: float, need_lse: bool, *_: Any) -> tuple[Tensor, Tensor]:
    shape = (q.shape[0], q.shape[2], q.shape[1]) if need_lse else (0,)
    return q.new_empty(q.shape), q.new_empty(shape, dtype=torch.float32)


SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, float scale, bool need_lse, str preference, Tensor?[] lists, int[] sizes) "
    "-> (Tensor, Tensor)"
)
_custom_op = getattr(torch.library, "custom_op", None)  # torch 2.4
if _custom_op is not None:
    _operator = _custom_op(NAME, _attend, mutates_args=(), schema=SCHEMA)
    _operator.register_fake(_fake)
else:
    _operator = _attend


def _is_compiling() -> bool:
    return torch.compiler.is_compiling()


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    need_lse: bool = False,
    key_tiles: KeyTiles | None = None,
    preference: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Compute attention of M selected queries over all N keys.

    q `[B, M, H, D]`, k and v `[B, N, H, D]` in fp16, bf16 or fp32, M ≤ N in this pack; any strides. scale: 1 / √D by
    default. key_tiles: attend only to the listed tiles of keys. preference: `auto` (the fastest exact backend, timed
    once), `fast` (less accurate backends too), or a backend's name; where that cannot be used, as `auto`.
    Returns out `[B, M, H, D]` and, with need_lse, the natural log-sum-exp of the scaled scores, fp32 `[B, H, M]`.
    Raises ValueError where shapes, dtypes or devices differ, or for a scale that is not positive and finite.
    """
    if not _is_compiling():
        return DISPATCHER.attend(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles, preference=preference)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    lists = NO_LISTS if key_tiles is None else key_tiles.tensors()
    sizes = (QUERY_TILE, KEY_TILE) if key_tiles is None else (key_tiles.query_tile, key_tiles.key_tile)
    out, lse = _operator(q, k, v, scale, need_lse, preference, lists, sizes)
    return out, lse if need_lse else None
