"""Models, sampling and timing in the host that `process.start` has loaded.

Times are wall-clock; ratios are taken between consecutive runs in one process. torch is imported inside the functions:
a script started with a Python without torch continues in the host's own.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..results import ROOT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TINY_MODEL = ROOT / "tiny" / "astraea_tiny_wan_fp16.safetensors"
TIMES_KEY = "astraea_benchmark_times"


@dataclass(frozen=True)
class Job:
    """One sampler run. positive, negative: contexts `[1, L, 4096]`; shape: latents `[1, 16, T, H, W]`."""

    shape: tuple[int, ...]
    positive: Tensor
    negative: Tensor
    seed: int = 0
    steps: int = 30
    cfg: float = 3.0
    sampler: str = "euler"
    scheduler: str = "simple"


def load_tiny(path: Path = TINY_MODEL, dtype: torch.dtype | None = None) -> Any:
    """A tiny model as a MODEL, by default in the host's type; read from a copy, as training may replace the file."""
    import comfy.sd

    options = {} if dtype is None else {"dtype": dtype}
    with tempfile.TemporaryDirectory() as folder:
        return comfy.sd.load_diffusion_model(shutil.copy(path, folder), model_options=options)


def sample(model: Any, job: Job) -> tuple[Tensor, float]:
    """Runs the host's sampler. Returns the denoised latents and the seconds it took."""
    import comfy.sample
    import torch

    latent = torch.zeros(job.shape)
    noise = comfy.sample.prepare_noise(latent, job.seed)
    positive, negative = [[job.positive, {}]], [[job.negative, {}]]
    with torch.inference_mode():
        began = time.perf_counter()
        output = comfy.sample.sample(
            model, noise, job.steps, job.cfg, job.sampler, job.scheduler, positive, negative, latent,
            seed=job.seed, disable_pbar=True,
        )  # fmt: skip
        return output, time.perf_counter() - began


def sigmas_of(model: Any, steps: int, scheduler: str = "simple") -> list[float]:
    """The host's noise levels for a run, the final 0 included."""
    import comfy.samplers

    sampling = model.get_model_object("model_sampling")
    return [float(sigma) for sigma in comfy.samplers.calculate_sigmas(sampling, scheduler, steps)]


def accelerated(model: Any, schedule: Any, **plan: Any) -> tuple[Any, Any]:
    """The model under a schedule, and the handle of its reports; plan: see `make_plan`."""
    from astraea.engine.planning.plan import make_plan
    from astraea.engine.report import ReportHandle
    from astraea.host.sampling.patch_model import accelerate

    handle = ReportHandle()
    return accelerate(model, make_plan(schedule, **plan), handle), handle


def with_call_times(model: Any) -> tuple[Any, list[tuple[float, float]]]:
    """A clone whose model calls are timed outside all other wrappers, and the list of `(sigma, seconds)`.

    Waits for the GPU before and after each call. Accelerate the clone, not the original.
    """
    from comfy.patcher_extension import WrappersMP

    times: list[tuple[float, float]] = []

    def timed(executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        synchronise(x.device)
        began = time.perf_counter()
        output = executor(x, t, *args, **kwargs)
        synchronise(x.device)
        times.append((float(t.flatten()[0]), time.perf_counter() - began))
        return output

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, TIMES_KEY, timed)
    return clone, times


def with_dense_beside(model: Any) -> tuple[Any, list[tuple[float, float]]]:
    """A clone that also computes every call densely, on the same input, and the list of `(dense, own)` seconds.

    Both calls of a pair follow one another, with alternating order, so that clock drift affects both equally. The dense
    result is dropped: the run is the same as without it. Accelerate the clone, not the original.
    """
    from comfy.patcher_extension import WrappersMP

    times: list[tuple[float, float]] = []

    def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
        synchronise(device)
        began = time.perf_counter()
        output = call()
        synchronise(device)
        return output, time.perf_counter() - began

    def both(executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        # `original` is the model itself: wrappers further in, the engine's among them, do not see this call.
        calls = [lambda: executor.original(x, t, *args, **kwargs), lambda: executor(x, t, *args, **kwargs)]
        order = (1, 0) if len(times) % 2 else (0, 1)
        results = {which: timed(calls[which], x.device) for which in order}
        times.append((results[0][1], results[1][1]))
        return results[1][0]

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, TIMES_KEY, both)
    return clone, times


def step_seconds(times: list[tuple[float, float]]) -> list[float]:
    """Seconds by step from `(sigma, seconds)` of calls; cond and uncond may be one call or two."""
    steps: dict[float, float] = {}
    for sigma, seconds in times:
        steps[sigma] = steps.get(sigma, 0.0) + seconds
    return list(steps.values())


def step_kinds(report: Any) -> list[str]:
    """Kind of each step by its first call: "full", "token" or "reuse"."""
    kinds: dict[int, str] = {}
    for call in report.calls:
        kinds.setdefault(call.step, call.kind)
    return list(kinds.values())


def synchronise(device: torch.device) -> None:
    """Waits for all work queued on a GPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def paired(dense: Callable[[], Any], candidate: Callable[[], Any], pairs: int) -> list[tuple[Any, Any]]:
    """Results of alternating dense and candidate runs; which of the two comes first alternates as well."""
    results = []
    for number in range(pairs):
        if number % 2:
            later = candidate()
            results.append((dense(), later))
        else:
            results.append((dense(), candidate()))
    return results
