"""Digests of a MODEL, conditionings, samplers and options. Only reads.

Equal inputs of two sessions have equal digests, so ids and addresses are left out.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

SAMPLED_TENSORS, SAMPLED_VALUES = 8, 64  # tensors, or keys of patches, of a model; values of a tensor
MAX_DEPTH = 12
PLAIN = (type(None), bool, int, float, str, bytes)


def digest_of(*values: Any) -> str:
    """Return 64 hex digits of nested containers, tensors, plain values, and of these in functions and other objects."""
    digest = hashlib.sha256()
    for part in _parts(values, 0):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def model_fingerprint(model: Any) -> str:
    """Return 16 hex digits of a MODEL: architecture, some weight values, LoRA patches and kind of sampling."""
    diffusion_model = model.get_model_object("diffusion_model")
    named = [(name, _as_given(model, name, weight)) for name, weight in diffusion_model.named_parameters()]
    sampling = model.get_model_object("model_sampling")
    return digest_of(
        type(diffusion_model).__name__,
        [(name, tuple(weight.shape), str(weight.dtype)) for name, weight in named],
        [_sample_values(weight) for _, weight in _sample(named)],
        _patches(model.patches),
        [kind.__name__ for kind in type(sampling).__mro__],
        getattr(sampling, "shift", None),
    )[:16]


def _as_given(model: Any, name: str, weight: Tensor) -> Tensor:
    """Return the weight as it was before ComfyUI, to load the model, added LoRA patches to it or changed its dtype."""
    kept = model.backup.get(f"diffusion_model.{name}")
    return kept.weight if kept is not None else weight


def _patches(patches: Mapping[Any, Any]) -> list:
    """Return the keys and strengths of all patches, and SAMPLED_VALUES of each tensor of SAMPLED_TENSORS keys."""
    keys = sorted(patches, key=str)
    strengths = [(str(key), [(patch[0], patch[2]) for patch in patches[key]]) for key in keys]
    tensors = [t for key in _sample(keys) for patch in patches[key] for t in _tensors(patch[1])]
    return [strengths, [_sample_values(tensor) for tensor in tensors]]


def _tensors(value: Any) -> Iterator[Tensor]:
    value = getattr(value, "weights", value)  # an adapter, or a plain tuple
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _sample(values: list) -> list:
    """Return up to SAMPLED_TENSORS of the values, evenly spaced."""
    count = min(SAMPLED_TENSORS, len(values))
    return [values[i * (len(values) - 1) // max(1, count - 1)] for i in range(count)]


def _sample_values(tensor: Tensor) -> Tensor | None:
    """Return SAMPLED_VALUES of a tensor's values; None for kinds that cannot be read directly, such as quantised."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_meta or tensor.is_quantized:
        return None
    try:
        flat = tensor.detach().reshape(-1)
        return flat[:: max(1, len(flat) // SAMPLED_VALUES)][:SAMPLED_VALUES].cpu().float()
    except (RuntimeError, NotImplementedError):  # a type that the device cannot convert
        return None


def _parts(value: Any, depth: int) -> Iterator[bytes]:
    """Yield the bytes of a value to hash, each piece after its kind."""
    if depth > MAX_DEPTH:
        yield b"deeper"
    elif isinstance(value, PLAIN):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, Tensor):
        yield from _tensor_parts(value)
    elif isinstance(value, Mapping):
        # Skip empty containers: removed wrappers leave them behind.
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
        yield from _parts(_bound_to(value), depth + 1)
    else:
        yield f"object {type(value).__module__}.{type(value).__qualname__}".encode()
        yield from _parts(_settings(value), depth + 1)


def _tensor_parts(tensor: Tensor) -> Iterator[bytes]:
    yield f"tensor {tensor.dtype} {tuple(tensor.shape)}".encode()
    try:
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, meta and other kinds without plain bytes
        yield b"unreadable"


def _bound_to(function: Any) -> list:
    """Return the values that two functions of one name may differ in. At module level, no two have one name."""
    parts: list[Any] = [_cell(cell) for cell in getattr(function, "__closure__", None) or ()]
    owner = getattr(function, "__self__", None)
    if not isinstance(owner, (type, ModuleType, torch.no_grad)):  # a decorator of samplers, which holds a state
        parts += [settings] if (settings := _settings(owner)) else []
    if "<locals>" in function.__qualname__:
        given = (getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__"))
        parts += [values for values in given if values]
    return parts


def _settings(value: Any) -> dict[str, Any]:
    """Return an object's attributes that are plain values or tensors, and public containers of plain values.

    Other containers are caches, patches or whole models.
    """
    named = getattr(value, "__dict__", {}).items()
    return {k: v for k, v in named if isinstance(v, (*PLAIN, Tensor)) or (not k.startswith("_") and _is_plain(v))}


def _is_plain(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, (list, tuple, dict)):
        return isinstance(value, PLAIN)
    inside = value.values() if isinstance(value, dict) else value
    return depth < MAX_DEPTH and all(_is_plain(of, depth + 1) for of in inside)


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
