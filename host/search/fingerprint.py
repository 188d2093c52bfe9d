"""Digests of what results depend on: a MODEL, conditionings, samplers, options. Reads only, moves and changes nothing.

Equal inputs of two sessions have equal digests, so nothing that is made anew each time (ids, addresses) goes in.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

SAMPLED_TENSORS, SAMPLED_VALUES = 8, 64
DEEPEST = 12
PLAIN = (type(None), bool, int, float, str, bytes)


def digest_of(*values: Any) -> str:
    """64 hex digits of nested containers of tensors and plain values; other objects count by class and plain values."""
    found = hashlib.sha256()
    for part in _parts(values, 0):
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def model_fingerprint(model: Any) -> str:
    """16 hex digits of a MODEL: its architecture, a few of its weights, LoRA patches and kind of sampling."""
    diffusion_model = model.get_model_object("diffusion_model")
    named = list(diffusion_model.named_parameters())
    sampling = model.get_model_object("model_sampling")
    return digest_of(
        type(diffusion_model).__name__,
        [(name, tuple(weight.shape), str(weight.dtype)) for name, weight in named],
        [_few_values(_unpatched(model, name, weight)) for name, weight in _spread(named)],
        _patches(model.patches),
        [kind.__name__ for kind in type(sampling).__mro__],
        getattr(sampling, "shift", None),
    )[:16]


def _unpatched(model: Any, name: str, weight: Tensor) -> Tensor:
    """The weight without LoRA patches, which the host adds in place for as long as the model is loaded."""
    kept = model.backup.get(f"diffusion_model.{name}")
    return kept.weight if kept is not None else weight


def _patches(patches: Mapping[Any, Any]) -> list:
    """Keys and strengths of all patches, and a few values of some."""
    keys = sorted(patches, key=str)
    strengths = [(str(key), [(patch[0], patch[2]) for patch in patches[key]]) for key in keys]
    tensors = [t for key in _spread(keys) for patch in patches[key] for t in _tensors(patch[1])]
    return [strengths, [_few_values(tensor) for tensor in tensors]]


def _tensors(value: Any) -> Iterator[Tensor]:
    value = getattr(value, "weights", value)  # an adapter, or a plain tuple
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _spread(values: list) -> list:
    """Up to SAMPLED_TENSORS of them, evenly from first to last."""
    count = min(SAMPLED_TENSORS, len(values))
    return [values[i * (len(values) - 1) // max(1, count - 1)] for i in range(count)]


def _few_values(tensor: Tensor) -> Tensor | None:
    """SAMPLED_VALUES of a tensor's values, None for kinds that cannot simply be read (quantised ones and the like)."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_meta or tensor.is_quantized:
        return None
    try:
        flat = tensor.detach().reshape(-1)
        return flat[:: max(1, len(flat) // SAMPLED_VALUES)][:SAMPLED_VALUES].cpu().float()
    except (RuntimeError, NotImplementedError):  # a type that the device cannot convert
        return None


def _parts(value: Any, depth: int) -> Iterator[bytes]:
    """What is hashed of a value, each piece with its kind in front."""
    if depth > DEEPEST:
        yield b"deeper"
    elif isinstance(value, PLAIN):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, Tensor):
        yield from _tensor_parts(value)
    elif isinstance(value, Mapping):
        # An empty container says the same as a missing one: wrappers that were taken off leave such behind.
        items = [(key, of) for key, of in value.items() if not (isinstance(of, (Mapping, list)) and len(of) == 0)]
        yield f"mapping {len(items)}".encode()
        for key, of in sorted(items, key=lambda item: str(item[0])):
            yield str(key).encode()
            yield from _parts(of, depth + 1)
    elif isinstance(value, (list, tuple)):
        yield f"sequence {len(value)}".encode()
        for of in value:
            yield from _parts(of, depth + 1)
    elif isinstance(value, (set, frozenset)):
        yield from _parts(sorted(map(str, value)), depth + 1)
    elif isinstance(value, (torch.dtype, torch.device)):
        yield str(value).encode()
    elif isinstance(value, functools.partial):
        yield from _parts([value.func, value.args, value.keywords], depth + 1)
    elif callable(value) and hasattr(value, "__qualname__"):
        yield f"function {getattr(value, '__module__', '')}.{value.__qualname__}".encode()
        yield from _parts([_cell(cell) for cell in getattr(value, "__closure__", None) or ()], depth + 1)
    else:
        yield f"object {type(value).__module__}.{type(value).__qualname__}".encode()
        plain = {k: v for k, v in getattr(value, "__dict__", {}).items() if isinstance(v, (*PLAIN, Tensor))}
        yield from _parts(plain, depth + 1)


def _tensor_parts(tensor: Tensor) -> Iterator[bytes]:
    yield f"tensor {tensor.dtype} {tuple(tensor.shape)}".encode()
    try:
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, meta and other kinds without plain bytes
        yield b"unreadable"


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
