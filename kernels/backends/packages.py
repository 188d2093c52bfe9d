"""Attention packages that a user may have installed: flash-attn 2 and 3, SageAttention 2, SpargeAttn.

Imported at first use.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from ..backend import HALF, AttentionOutput, Backend, Constraints
from ..key_tiles import QUERY_TILE, KeyTiles
from ..problem import Problem
from .aten import CUDA

RANK = 10  # installed for its speed: before torch's own kernels


@cache
def _import_package(module: str) -> ModuleType | str:
    """Return the module, or why it cannot be imported. Broken builds raise errors of any type: all are caught."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        return "not installed" if error.name == module.split(".")[0] else f"broken installation: {error}"
    except Exception as error:
        return f"broken installation: {type(error).__name__}: {error}"


def _missing_package(module: str, package: str, min_major: int) -> str:
    found = _import_package(module)
    if isinstance(found, str):
        return found
    version = package_version(package)
    major = re.match(r"\d+", version)
    return f"needs version {min_major} or newer, {version} is installed" if major and int(major[0]) < min_major else ""


def package_version(package: str) -> str:
    """Return the installed version of a distribution, or ""."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _function(module: str, name: str) -> Callable:
    return getattr(_import_package(module), name)


def attend_flash2(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute by flash-attn 2, which takes the same layout; shapes as in `attend_reference`."""
    attention = _function("flash_attn", "flash_attn_func")
    if not need_lse:
        return attention(q, k, v, softmax_scale=scale), None
    out, lse = attention(q, k, v, softmax_scale=scale, return_attn_probs=True)[:2]
    return out, lse


def attend_flash3(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute by flash-attn 3 for Hopper. Early releases always return a tuple, later releases on request."""
    attention = _function("flash_attn_interface", "flash_attn_func")
    options = {"return_attn_probs": True} if need_lse and _accepts(attention, "return_attn_probs") else {}
    result = attention(q, k, v, softmax_scale=scale, **options)
    out, lse = result[:2] if isinstance(result, tuple) else (result, None)
    return out, lse if need_lse else None


@cache
def _accepts(function: Callable, argument: str) -> bool:
    return argument in inspect.signature(function).parameters


def attend_sage(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> AttentionOutput:
    """Compute by SageAttention 2, with queries and keys in 8 bit."""
    attention = _function("sageattention", "sageattn")
    arguments = {"tensor_layout": "NHD", "is_causal": False, "sm_scale": scale}
    if not need_lse:
        return attention(q, k, v, **arguments), None
    out, lse = attention(q, k, v, **arguments, return_lse=True)
    return out, lse.float()


def attend_sparge(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles
) -> AttentionOutput:
    """Compute listed key tiles by SpargeAttn's block-sparse kernel, with queries and keys in 8 bit.

    It knows no orders of tokens: rows are permuted before and after.
    """
    attention = _function("spas_sage_attn", "block_sparse_sage2_attn_cuda")
    mask, orders = key_tiles.tile_mask(k.shape[1]).to(torch.int8), key_tiles.orders
    if orders is None:
        return attention(q, k, v, mask_id=mask, scale=scale, tensor_layout="NHD"), None
    queries = orders.queries_of_heads().expand(q.shape[0], -1, -1).transpose(1, 2).unsqueeze(-1)
    keys = orders.keys_of_heads().expand(k.shape[0], -1, -1).transpose(1, 2).unsqueeze(-1)
    permuted = (q.take_along_dim(queries, 1), k.take_along_dim(keys, 1), v.take_along_dim(keys, 1))
    out = attention(*permuted, mask_id=mask, scale=scale, tensor_layout="NHD")
    return torch.empty_like(out).scatter_(1, queries.expand_as(out), out), None


def _check_sparge(problem: Problem) -> str:
    if problem.rest:
        return "has no term for the rest of the keys"
    if problem.queries < QUERY_TILE:
        return f"takes {QUERY_TILE} queries or more"
    if problem.device.type == "cuda" and torch.cuda.get_device_capability(problem.device)[0] == 9:
        return "has tiles of other sizes on Hopper"
    return ""


BACKENDS = (
    Backend(
        name="flash-attn-3",
        what="the flash_attn_interface package, for Hopper",
        run=attend_flash3,
        constraints=Constraints(CUDA, HALF, capability=(9, 0), head_dim_multiple=8, max_head_dim=256, amd=False),
        unavailable_reason=lambda: _missing_package("flash_attn_interface", "flash_attn_3", 3),
        packages=("flash_attn_3",),
    ),
    Backend(
        name="flash-attn",
        what="the flash-attn package, version 2",
        run=attend_flash2,
        constraints=Constraints(CUDA, HALF, capability=(8, 0), head_dim_multiple=8, max_head_dim=256),
        unavailable_reason=lambda: _missing_package("flash_attn", "flash_attn", 2),
        packages=("flash_attn",),
    ),
    Backend(
        name="sage",
        what="the SageAttention package, version 2: 8-bit queries and keys",
        run=attend_sage,
        constraints=Constraints(CUDA, HALF, capability=(8, 0), max_head_dim=128, amd=False),
        unavailable_reason=lambda: _missing_package("sageattention", "sageattention", 2),
        exact=False,
        packages=("sageattention",),
    ),
    Backend(
        name="sparge",
        what="the SpargeAttn package: listed key tiles, 8-bit queries and keys",
        run=attend_sparge,
        constraints=Constraints(
            CUDA,
            HALF,
            capability=(8, 0),
            head_dims=frozenset({64, 128}),
            amd=False,
            lse=False,
            key_tiles=True,
            dense=False,
        ),
        unavailable_reason=lambda: _missing_package("spas_sage_attn", "spas_sage_attn", 0),
        extra_check=_check_sparge,
        exact=False,
        packages=("spas_sage_attn",),
    ),
)
