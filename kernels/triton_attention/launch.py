"""Launches the Triton kernels.

Needs torch alone at import. Launches do not wait for the device, so a CUDA graph may capture them.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..key_tiles import KEY_TILE, QUERY_TILE, KeyTiles, Orders, Rest
from .availability import architecture_of, unsupported_reason
from .configs import ROWS, Config, compile_options, config_for

if TYPE_CHECKING:
    from triton.tools.tensor_descriptor import TensorDescriptor

LOG2_E = math.log2(math.e)


def _shipped_config(kind: str, q: Tensor) -> Config:
    config = config_for(architecture_of(q.device), kind, q.shape[-1])
    if config is None:
        raise ValueError(unsupported_reason(kind, q.device, q.dtype, q.shape[-1]))
    return config


def _base2_scale(scale: float) -> float:
    """Return the factor from products q kᵀ to scores in base 2. It must be positive: maxima are taken before it."""
    if scale <= 0.0:
        raise ValueError(f"the scale of attention scores must be positive, not {scale}")
    return scale * LOG2_E


def device_context(device: torch.device) -> AbstractContextManager:
    """Make the tensors' device current: Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _allocate_outputs(q: Tensor, need_lse: bool) -> tuple[Tensor, Tensor | None]:
    batch, queries, heads, _ = q.shape
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device) if need_lse else None
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), lse


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    """Return the strides of batch, row and head. Raises ValueError unless the last stride is 1, as kernels assume."""
    for tensor in tensors:
        if tensor.stride(-1) != 1:
            raise ValueError(f"q, k and v must be contiguous in their last dimension: strides {tensor.stride()}")
    return tuple(tensor.stride(dim) for tensor in tensors for dim in range(3))


def _list_arguments(key_tiles: KeyTiles | None, q: Tensor, k: Tensor) -> tuple[Any, ...]:
    """Return the kernels' arguments `counts` to `rest_value`. Raises ValueError for lists of other shapes."""
    if key_tiles is None:
        return None, None, 0, 0, *_order_arguments(None, q, k), None, None
    if not key_tiles.has_usual_sizes:
        sizes = f"{key_tiles.query_tile} queries and {key_tiles.key_tile} keys"
        raise ValueError(f"the Triton kernels take tiles of {QUERY_TILE} queries and {KEY_TILE} keys, not {sizes}")
    batch, queries, heads, head_dim = q.shape
    query_tiles, length = -(-queries // QUERY_TILE), key_tiles.tiles.shape[-1]
    _check_shape("counts", key_tiles.counts, (batch, heads, query_tiles))
    _check_shape("tiles", key_tiles.tiles, (batch, heads, query_tiles, length))
    rest = (None, None) if key_tiles.rest is None else _rest_arguments(key_tiles.rest, key_tiles.counts.shape, head_dim)
    counts, tiles = key_tiles.counts.contiguous(), key_tiles.tiles.contiguous()
    return counts, tiles, query_tiles, length, *_order_arguments(key_tiles.orders, q, k), *rest


def _order_arguments(orders: Orders | None, q: Tensor, k: Tensor) -> tuple[Any, Any, Any, int]:
    """Return the kernels' arguments `key_orders`, `query_orders`, `of_head` and `query_orders_stride`."""
    if orders is None:
        return None, None, None, 0
    count = orders.keys.shape[0]
    _check_shape("orders of keys", orders.keys, (count, k.shape[1]))
    _check_shape("orders of queries", orders.queries, (1 if len(orders.queries) == 1 else len(q), count, q.shape[1]))
    _check_shape("orders of heads", orders.of_head, (q.shape[2],))
    stride = count * q.shape[1] if len(orders.queries) > 1 else 0
    return orders.keys.contiguous(), orders.queries.contiguous(), orders.of_head.contiguous(), stride


def _rest_arguments(rest: Rest, shape: torch.Size, head_dim: int) -> tuple[Tensor, Tensor]:
    _check_shape("scores of the rest", rest.top, shape)
    _check_shape("values of the rest", rest.value, (*shape, head_dim))
    return rest.top.contiguous(), rest.value.contiguous()


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    # The kernels would read beyond a tensor that is smaller.
    if tensor.shape != shape:
        raise ValueError(f"{name} of key tiles must be of shape {list(shape)}, not {list(tensor.shape)}")


def attend_pointer(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles | None = None
) -> tuple[Tensor, Tensor | None]:
    """Compute softmax(q kᵀ · scale) v with pointer loads, over all keys or the listed tiles of keys.

    q `[B, M, H, D]`, k and v `[B, N, H, D]`, last stride 1, scale > 0. Returns out `[B, M, H, D]`, contiguous, and the
    natural log-sum-exp, fp32 `[B, H, M]`. Raises ValueError where the kernel cannot take such tensors.
    """
    from .forward import attend_forward

    config = _shipped_config("pointer" if key_tiles is None else "tiles", q)
    batch, queries, heads, head_dim = q.shape
    strides = _strides(q, k, v)
    lists = _list_arguments(key_tiles, q, k)
    out, lse = _allocate_outputs(q, need_lse)
    with device_context(q.device):
        attend_forward[(-(-queries // config.block_m), heads, batch)](
            q,
            k,
            v,
            out,
            lse,
            _base2_scale(scale),
            queries,
            k.shape[1],
            heads,
            *strides,
            *lists,
            HEAD_DIM=head_dim,
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            QUERY_TILE=QUERY_TILE,
            KEY_TILE=KEY_TILE,
            **compile_options(config),
        )
    return out, lse


def attend_tma(q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool) -> tuple[Tensor, Tensor | None]:
    """As `attend_pointer`, with K and V by tensor descriptors. Raises ValueError also with a `descriptor_error`."""
    from .forward_tma import attend_forward_tma

    config = _shipped_config("tma", q)
    batch, queries, heads, head_dim = q.shape
    out, lse = _allocate_outputs(q, need_lse)
    with device_context(q.device):
        attend_forward_tma[(-(-queries // config.block_m), heads, batch)](
            q,
            _descriptor(k, config.block_n),
            _descriptor(v, config.block_n),
            out,
            lse,
            _base2_scale(scale),
            queries,
            k.shape[1],
            heads,
            *_strides(q),
            HEAD_DIM=head_dim,
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            **compile_options(config),
        )
    return out, lse


def descriptor_error(tensor: Tensor) -> str:
    """Return why TMA cannot load `[B, N, H, D]`; "" if it can (CUDA driver API, cuTensorMapEncodeTiled)."""
    if tensor.data_ptr() % 16:
        return "its first element is not aligned to 16 bytes"
    if tensor.stride(-1) != 1:
        return "its last dimension is not contiguous"
    for dim in range(3):
        stride = tensor.stride(dim) * tensor.element_size()
        if tensor.shape[dim] > 1 and not (0 < stride < 1 << 40 and stride % 16 == 0):
            return f"the stride of dimension {dim} is {stride} bytes, not a positive multiple of 16 below 2^40"
    return ""


def _descriptor(tensor: Tensor, rows: int) -> TensorDescriptor:
    from triton.tools.tensor_descriptor import TensorDescriptor

    if reason := descriptor_error(tensor):
        raise ValueError(f"TMA cannot load the tensor: {reason}")
    head_dim = tensor.shape[-1]
    # In torch the stride of a dimension of size 1 may be anything; the hardware checks it.
    strides = [tensor.stride(dim) if tensor.shape[dim] > 1 else head_dim for dim in range(3)]
    return TensorDescriptor(tensor, list(tensor.shape), [*strides, 1], [1, rows, 1, head_dim])


def attend_int8(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key_tiles: KeyTiles | None = None
) -> tuple[Tensor, Tensor | None]:
    """As `attend_pointer`, with int8 scores: approximate, within the tolerances of its tests."""
    from .int8 import attend_forward_int8

    config = _shipped_config("int8" if key_tiles is None else "int8_tiles", q)
    batch, queries, heads, head_dim = q.shape
    _strides(q, k, v)
    lists = _list_arguments(key_tiles, q, k)
    key_orders, query_orders, of_head, query_orders_stride = lists[4:8]
    out, lse = _allocate_outputs(q, need_lse)
    with device_context(q.device):
        # Rows are put into their head's order while they are quantised, so that attention reads them one after another.
        q_order, k_order = (query_orders, of_head, query_orders_stride), (key_orders, of_head, 0)
        # Subtracting one vector from all keys changes no softmax and leaves int8 a smaller range to cover. The
        # log-sum-exp and the score of a rest are those of the keys as they were.
        mean = k.mean(1, dtype=torch.float32)
        direction = mean if need_lse or (key_tiles is not None and key_tiles.rest is not None) else None
        q_codes, q_scales, shift = _quantise(q, _base2_scale(scale), q_order, direction=direction)
        k_codes, k_scales, _ = _quantise(k, 1.0, k_order, offset=mean)
        v_half, v_scales = _half_values(v, key_orders, of_head)
        attend_forward_int8[(-(-queries // config.block_m), heads, batch)](
            q_codes,
            q_scales,
            k_codes,
            k_scales,
            v_half,
            v_scales,
            shift,
            out,
            lse,
            queries,
            k.shape[1],
            heads,
            *_strides(v_half),
            *lists[:4],
            *lists[5:],
            HEAD_DIM=head_dim,
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            QUERY_TILE=QUERY_TILE,
            KEY_TILE=KEY_TILE,
            **compile_options(config),
        )
    return out, lse


def _quantise(
    x: Tensor,
    factor: float,
    order: tuple[Tensor | int | None, ...],
    offset: Tensor | None = None,
    direction: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return codes, scales and projection of `quantise_rows`; order: its arguments `orders` to `orders_stride`."""
    from .int8 import quantise_rows

    batch, count, heads, head_dim = x.shape
    codes = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scales = torch.empty(batch, heads, count, dtype=torch.float32, device=x.device)
    projection = None if direction is None else torch.empty_like(scales)
    quantise_rows[(-(-count // ROWS.block_m), heads, batch)](
        x,
        offset,
        direction,
        codes,
        scales,
        projection,
        factor,
        count,
        heads,
        *_strides(x),
        *order,
        HEAD_DIM=head_dim,
        BLOCK=ROWS.block_m,
        **compile_options(ROWS),
    )
    return codes, scales, projection


def _half_values(v: Tensor, orders: Tensor | None, of_head: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return v in fp16 `[B, N, H, D]`, in the order of each head, and the divisor of each channel, fp32 `[B, H, D]`.

    A tile sums 64 values in fp16 with weights of at most 1: up to 512 each, the sum stays in range. Channels within
    that are divided by 1, which changes nothing.
    """
    from .int8 import order_values

    largest = torch.linalg.vector_norm(v, math.inf, dim=1, dtype=torch.float32)
    scales = (largest / 512).clamp_(min=1.0)
    half = torch.empty(v.shape, dtype=torch.float16, device=v.device)
    if orders is None:
        return torch.div(v, scales.unsqueeze(1), out=half), scales
    batch, count, heads, head_dim = v.shape
    order_values[(-(-count // ROWS.block_m), heads, batch)](
        v,
        scales,
        half,
        count,
        heads,
        *_strides(v),
        orders,
        of_head,
        HEAD_DIM=head_dim,
        BLOCK=ROWS.block_m,
        **compile_options(ROWS),
    )
    return half, scales
