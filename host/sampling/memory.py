"""Memory for what a run keeps: announced to the host before it fills the device with weights."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ...engine.blocks.interface import TokenLayout
from ...engine.run import Run
from ...models import Architecture
from .guiders import conditioning_count

try:
    import comfy.model_prefetch as model_prefetch
except ImportError:  # older hosts
    model_prefetch = None

_paused = threading.local()


def compute_dtype(base_model: Any) -> torch.dtype:
    return getattr(base_model, "manual_cast_dtype", None) or base_model.get_dtype()


@contextmanager
def lasting_memory() -> Iterator[None]:
    """Make a context in which to allocate and free memory that outlives a model's forward; it may be nested.

    Newer hosts record what some models allocate in a call, and replay it in later calls: memory that such a call does
    not give back breaks the replay. The recorder is the thread's, and its own pauses do not nest.
    """
    if getattr(_paused, "by_us", False):
        yield
        return
    _paused.by_us = True
    try:
        with getattr(model_prefetch, "pause_malloc_graph", nullcontext)():
            yield
    finally:
        _paused.by_us = False


def announced_bytes(
    run: Run, architecture: Architecture, guider: Any, noise_shape: tuple[int, ...], layout: TokenLayout
) -> int:
    """Return the bytes that the run will allocate for its caches on a device. noise_shape: of the latents, with batch.

    The host may divide the conditionings among several devices.
    """
    base_model = guider.model_patcher.model
    rows = noise_shape[0] * math.ceil(conditioning_count(guider) / _device_count(guider.model_patcher))
    latent_bytes = math.prod(noise_shape[1:]) * torch.float32.itemsize  # the host samples in fp32
    dtype = architecture.hidden_dtype(compute_dtype(base_model))
    return run.store_bytes(rows, layout.total, architecture.dim, len(architecture.blocks), dtype, latent_bytes)


def _device_count(patcher: Any) -> int:
    """Count the devices that the host's MultiGPU CFG Split has given the MODEL; 1 without it."""
    additional_models: Callable[[str], Sized] = getattr(patcher, "get_additional_models_with_key", lambda key: [])
    return 1 + len(additional_models("multigpu"))


def enlarged_shape(base_model: Any, noise_shape: tuple[int, ...], extra_bytes: int) -> tuple[int, ...]:
    """Return a latent shape with so large a batch that the host, which asks for twice it, frees `extra_bytes` more."""
    estimate = base_model.memory_required([noise_shape[0] * 2, *noise_shape[1:]])
    if extra_bytes <= 0 or estimate <= 0:
        return noise_shape
    return (math.ceil(noise_shape[0] * (1.0 + extra_bytes / estimate)), *noise_shape[1:])
