"""ComfyUI's own step cache, set up so that only its method is measured. Import after the host was started.

EasyCache adds its estimate to the latents in place. If the model computes in float32, as on most CPUs, those are the
sampler's own latents, which the host then reads again: the result is wrong. In half precision the host passes a copy.
So a copy is made here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

COUNT_KEY, COPY_KEY = "astraea_benchmark_count", "astraea_benchmark_copy"
START, END = 0.15, 0.95  # of the run: the nodes' defaults


class CountedCalls:
    """Counts calls before and behind a step cache; read like a handle of reports."""

    def __init__(self) -> None:
        self._calls = self._computed = 0

    @property
    def last(self) -> SimpleNamespace:
        share = self._computed / max(1, self._calls)
        return SimpleNamespace(computed_share=share, ideal_speedup=1.0 / max(share, 1e-6), notes=[], calls=[])

    def run(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self._calls = self._computed = 0
        return executor(*args, **kwargs)

    def outside(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self._calls += 1
        return executor(*args, **kwargs)

    def inside(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self._computed += 1
        return executor(*args, **kwargs)


def _copy_latents(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return executor(x.clone(), *args, **kwargs)


def easycache(model: Any, threshold: float) -> tuple[Any, CountedCalls]:
    """EasyCache: skips calls of the model, which are counted."""
    from comfy_extras.nodes_easycache import EasyCacheNode

    clone, counted = model.clone(), CountedCalls()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, COUNT_KEY, counted.outside)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, COPY_KEY, _copy_latents)
    cached = EasyCacheNode.execute(clone, threshold, START, END, False).result[0]
    cached.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, COUNT_KEY, counted.run)
    cached.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, COUNT_KEY, counted.inside)
    return cached, counted
