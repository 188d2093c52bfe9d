"""Short timings of backends on the tensors of a real call, in turn with each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from . import crash_guard
from .backend import Backend
from .problem import MANY_QUERIES, Problem

MOST_OPERATIONS = {"cuda": 1e13}  # a tenth of a second on a card of 100 TFLOP/s
MOST_OPERATIONS_ELSEWHERE = 2e10
LEAST_HEADS = 2
LEAST_ROUNDS, MOST_ROUNDS = 4, 20
ENOUGH_MILLISECONDS = 40.0  # of a backend's own time: short works need more rounds against a busy machine
HOPELESS = 1.5  # times the best: not run again


def sample(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The part of a call that is timed: one batch row, at most 4096 queries, fewer heads where that is still long."""
    q, k, v = q[:1, :MANY_QUERIES], k[:1], v[:1]
    most = MOST_OPERATIONS.get(q.device.type, MOST_OPERATIONS_ELSEWHERE)
    heads = max(LEAST_HEADS, int(q.shape[2] * most / Problem.of(q, k, v).operations))
    return q[:, :, :heads], k[:, :, :heads], v[:, :, :heads]


@torch.inference_mode()
def milliseconds(
    backends: Sequence[Backend], q: Tensor, k: Tensor, v: Tensor, *, scale: float, need_lse: bool, key: str = ""
) -> dict[str, float | str]:
    """The shortest time of each backend by name; a backend that fails has its reason instead.

    The backends take turns, so that a clock or a machine that wanders moves all alike. key: under which first attempts
    at this size are written down. Raises RuntimeError where a backend leaves the device unusable.
    """
    q, k, v = sample(q, k, v)
    stopwatch = _cuda_milliseconds if q.device.type == "cuda" else _wall_milliseconds
    times: dict[str, list[float]] = {}
    keys = {backend.name: f"{key} | {backend.name}" for backend in backends if not backend.skip_selftest}
    failures = {name: why for name, key in keys.items() if (why := crash_guard.unsupported_reason(key, q.device))}
    for round_ in range(MOST_ROUNDS + 1):
        shortest = {name: min(spent) for name, spent in times.items()}
        racing = [backend for backend in backends if backend.name not in failures]
        if round_ > 2:
            racing = [b for b in racing if shortest[b.name] <= HOPELESS * min(shortest.values())]
        if round_ > LEAST_ROUNDS:
            racing = [b for b in racing if sum(times[b.name]) < ENOUGH_MILLISECONDS]
        for backend in racing:
            work = partial(stopwatch, partial(backend, q, k, v, scale=scale, need_lse=need_lse), q.device)
            try:
                first_try = round_ == 0 and backend.name in keys
                spent = crash_guard.attempt(keys[backend.name], q.device, work) if first_try else work()
            except Exception as error:  # out of memory, most likely: this one only
                if crash_guard.is_lost(q.device):
                    raise RuntimeError(f"attention '{backend.name}': {crash_guard.DEVICE_LOST}") from error
                failures[backend.name] = f"failed when it was timed: {type(error).__name__}"
                times.pop(backend.name, None)
                continue
            if round_ > 0:  # the first warms up: memory, compilation
                times.setdefault(backend.name, []).append(spent)
    return {name: min(spent) for name, spent in times.items()} | failures


def _cuda_milliseconds(work: Callable[[], object], device: torch.device) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def _wall_milliseconds(work: Callable[[], object], device: torch.device) -> float:
    synchronise = getattr(getattr(torch, device.type, None), "synchronize", None)
    if device.type == "cpu" or synchronise is None:
        synchronise = _nothing
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    return (time.perf_counter() - start) * 1000.0


def _nothing() -> None:
    pass
