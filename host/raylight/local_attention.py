"""Sparse attention behind raylight's exchange: there each GPU has all keys, of some of the heads.

raylight's attention is xFuser's: an all-to-all takes a GPU the queries, keys and values of all tokens for its share of
the heads, then a function attends, then another all-to-all. For the length of a model call that function is Astraea's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from ...engine.sparse.run import SparseRun
from ...engine.sparse.work import AttentionCall

FAMILIES = "raylight.diffusion_models."
ATTENTION, LAYER, FUNCTION = "xfuser_optimized_attention", "xfuser_attn", "ring_attn_fn"  # as they are called there
KEYS_ELSEWHERE = "raylight's ring passes keys on from GPU to GPU: none has all of them"
JOINED = "raylight joins text to it behind its exchange"


@contextmanager
def reach_raylight(run: SparseRun, *, ring: int) -> Iterator[None]:
    """Make a context in which raylight's attention goes through the run. ring: GPUs that pass keys on."""
    with ExitStack() as stack:
        for layer in _layers():
            stack.enter_context(_replaced(layer, run, ring))
        yield


def _layers() -> list[Any]:
    """Return xFuser's attention layers, one for each family of models that raylight has loaded here."""
    modules = [module for name, module in sys.modules.items() if name.startswith(FAMILIES)]
    functions = {id(found): found for found in (getattr(module, ATTENTION, None) for module in modules) if found}
    layers = [inspect.getclosurevars(function).nonlocals.get(LAYER) for function in functions.values()]
    return [layer for layer in layers if hasattr(layer, FUNCTION)]


@contextmanager
def _replaced(layer: Any, run: SparseRun, ring: int) -> Iterator[None]:
    original = getattr(layer, FUNCTION)
    setattr(layer, FUNCTION, partial(_attend, run, original, ring))
    try:
        yield
    finally:
        setattr(layer, FUNCTION, original)


def _attend(run: SparseRun, original: Any, ring: int, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    """Attend in xFuser's stead. q `[B, M, H, D]`, k and v `[B, N, H, D]`, of this GPU's heads."""
    reason = KEYS_ELSEWHERE if ring > 1 else JOINED if options.get("joint_tensor_key") is not None else ""
    if reason:
        if q.shape[1] == k.shape[1]:  # attention to text is another matter
            run.stays_dense(reason)
    elif run.is_open:
        scale = options.get("softmax_scale") or q.shape[-1] ** -0.5

        def dense(*tensors: Tensor) -> Tensor:
            out = original(*tensors, **options)
            return out[0] if isinstance(out, tuple) else out

        out = run.attend(AttentionCall(q, k, v, scale, dense, dense_name=f"raylight's {options.get('attn_type')}"))
        if out is not None:
            return out
    return original(q, k, v, **options)
