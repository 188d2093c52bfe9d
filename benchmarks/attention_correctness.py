"""Correctness before speed: every backend against double precision, on random, peaked and offset inputs.

Ragged numbers of rows, memory full of NaN for the outputs, everything twice for the same bits, and lists of key tiles
where a backend takes them. Nothing is asserted: what a backend does not keep stands in its row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from attention_measure import dtype_name
from torch import Tensor

from astraea.kernels import DISPATCHER, Backend, KeyTiles, Problem
from astraea.kernels import selftest as owed
from astraea.kernels.key_tiles import KEY_TILE, QUERY_TILE

LENGTHS = ((333, 1117), (1, 65), (257, 4099))  # M and N that fill no tile of any size
CHECK_BATCH, CHECK_HEADS = 2, 3
INPUTS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "random": lambda q, k: (q, k),
    "peaked": lambda q, k: (q * 4.0, k),
    "offset": lambda q, k: (q, k + 3.0),  # moves every score of a row alike: the output must not notice
}
KEPT_TILES = 0.3  # of key tiles, where lists of them are checked


@dataclass(frozen=True)
class Check:
    """Inputs on the device and what is right, in double precision on the CPU."""

    kind: str
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor
    key_tiles: KeyTiles | None = None


def checks(dtype: torch.dtype, head_dim: int, device: torch.device, seed: int) -> Iterator[Check]:
    """Every kind of input at every length, and key tiles at the longest."""
    generator = torch.Generator().manual_seed(seed)
    for queries, keys in LENGTHS:
        q, k, v = (
            torch.randn(CHECK_BATCH, rows, CHECK_HEADS, head_dim, generator=generator) for rows in (queries, keys, keys)
        )
        for kind, changed in INPUTS.items():
            ready = _ready((*changed(q, k), v), dtype, device)
            yield Check(kind, *ready, *owed.exact(*ready, scale=head_dim**-0.5))
    tiles = (-(-queries // QUERY_TILE), -(-keys // KEY_TILE))
    mask = torch.rand(CHECK_BATCH, CHECK_HEADS, *tiles, generator=generator) < KEPT_TILES
    mask[:, :, -1] = False  # queries without any key
    ready, listed = _ready((q, k, v), dtype, device), KeyTiles.from_mask(mask)
    on_device = KeyTiles(listed.counts.to(device), listed.tiles.to(device))
    yield Check("key tiles", *ready, *_exact_tiles(ready, listed), on_device)


def _ready(tensors: tuple[Tensor, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (tensor.to(dtype).to(device) for tensor in tensors)
    return q, k, v


def _exact_tiles(tensors: Sequence[Tensor], key_tiles: KeyTiles) -> tuple[Tensor, Tensor]:
    q, k, v = (t.cpu().double().transpose(1, 2) for t in tensors)
    allowed = key_tiles.mask(q.shape[2], k.shape[2])
    scores = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).masked_fill(~allowed, -math.inf)
    weights = scores.softmax(-1).nan_to_num(0.0)
    return (weights @ v).transpose(1, 2), scores.logsumexp(-1)


def poison(q: Tensor) -> None:
    """Leaves NaN in the memory that outputs for `q` are likely to get: what a kernel does not write shows."""
    batch, queries, heads, _ = q.shape
    for _ in range(2):
        held = [torch.full(q.shape, math.nan, dtype=q.dtype, device=q.device) for _ in range(4)]
        held += [torch.full((batch, heads, queries), math.nan, device=q.device) for _ in range(4)]
        del held


def correctness(dtype: torch.dtype, head_dim: int, device: torch.device, seed: int) -> list[dict[str, Any]]:
    """Per backend that can run: errors by kind of input, whether bits repeat, and whether it keeps what it owes."""
    problem = Problem(device, dtype, CHECK_BATCH, 333, 1117, CHECK_HEADS, head_dim)
    backends = [b for b in DISPATCHER.backends if not DISPATCHER.unsupported_reason(b, problem)]
    rows = {b.name: _empty_row(b, dtype, head_dim) for b in backends}
    for check in checks(dtype, head_dim, device, seed):
        for backend in backends:
            if check.key_tiles is None or backend.constraints.key_tiles:
                _apply(backend, check, rows[backend.name])
    return list(rows.values())


def _empty_row(backend: Backend, dtype: torch.dtype, head_dim: int) -> dict[str, Any]:
    owes = (owed.OUTPUT_TOLERANCE[dtype], owed.LSE_TOLERANCE)
    output, lse = owes if backend.exact else (owed.FAST_OUTPUT_TOLERANCE, owed.FAST_LSE_TOLERANCE)
    what = {"backend": backend.name, "dtype": dtype_name(dtype), "head_dim": head_dim}
    return what | {"owed": output, "owed_lse": lse, "errors": {}, "lse_error": None, "repeatable": True, "reasons": []}


def _apply(backend: Backend, check: Check, row: dict[str, Any]) -> None:
    """One call twice, the first into poisoned memory; the worst figures stay in the row."""
    needs_lse = backend.constraints.lse
    arguments: dict[str, Any] = {
        "scale": check.q.shape[-1] ** -0.5,
        "need_lse": needs_lse,
        "key_tiles": check.key_tiles,
    }
    place = f"{check.kind}, M {check.q.shape[1]}, N {check.k.shape[1]}"
    try:
        poison(check.q)
        out, lse = backend(check.q, check.k, check.v, **arguments)
        again, _ = backend(check.q, check.k, check.v, **arguments)
        bitwise = torch.equal(out, again)
        error = ((out.cpu().double() - check.out).norm() / check.out.norm()).item()
    except Exception as failure:  # a kernel that fails is a row of the table
        row["reasons"].append(f"{place}: {type(failure).__name__}: {str(failure).strip()[:120]}")
        return
    if not math.isfinite(error):
        row["reasons"].append(f"{place}: values that are not finite")
    else:
        row["errors"][check.kind] = max(error, row["errors"].get(check.kind, 0.0))
        if error > row["owed"]:
            row["reasons"].append(f"{place}: off by {error:.1e}")
    if not bitwise:
        row["repeatable"] = False
        row["reasons"].append(f"{place}: other bits the second time")
    if lse is not None:
        _apply_lse(lse.cpu().double(), check.lse, place, row)


def _apply_lse(lse: Tensor, expected: Tensor, place: str, row: dict[str, Any]) -> None:
    attends = expected.isfinite()
    error = (lse - expected)[attends].abs().max().item()
    if not math.isfinite(error) or not torch.equal(lse[~attends], expected[~attends]):
        row["reasons"].append(f"{place}: a log-sum-exp that is not finite, or finite where no key is")
        return
    row["lse_error"] = max(error, row["lse_error"] or 0.0)
    if error > row["owed_lse"]:
        row["reasons"].append(f"{place}: log-sum-exp off by {error:.1e}")
