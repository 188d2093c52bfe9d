"""Times backends on the tensors of a real call, in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from . import crash_guard
from .backend import Backend
from .key_tiles import KeyTiles
from .problem import MANY_QUERIES, Problem

MAX_OPERATIONS = {"cuda": 1e13}  # of one timed call: 0.1 s on a card of 100 TFLOP/s
MAX_OPERATIONS_ELSEWHERE = 2e10
MIN_HEADS = 2
MIN_ROUNDS, MAX_ROUNDS = 4, 20
ENOUGH_MILLISECONDS = 40.0  # of a backend's own time: short calls need more rounds on a busy machine
MAX_RATIO_TO_BEST = 1.5  # slower backends are not run again
# Held by whoever times or chooses, as a host may have a thread for each device: timings at the same moment would slow
# each other. One for all: those who time call each other, and with a lock each they could wait for one another.
TIMING = threading.RLock()


def take_sample(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the part of a call that is timed: one batch row, at most 4096 queries, fewer heads if that takes long."""
    q, k, v = q[:1, :MANY_QUERIES], k[:1], v[:1]
    most = MAX_OPERATIONS.get(q.device.type, MAX_OPERATIONS_ELSEWHERE)
    heads = max(MIN_HEADS, int(q.shape[2] * most / Problem.of(q, k, v).operations))
    return q[:, :, :heads], k[:, :, :heads], v[:, :, :heads]


@torch.inference_mode()
def time_backends(
    backends: Sequence[Backend],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    need_lse: bool,
    key: str = "",
    key_tiles: KeyTiles | None = None,
) -> dict[str, float | str]:
    """Return the shortest time of each backend in milliseconds, by name; for a backend that fails, the reason.

    Shapes as in `kernels.attend`. The backends take turns, so that changes of clock or load affect all alike. key:
    where first attempts at this size are recorded, see `crash_guard`. With key_tiles the whole call is timed, as lists
    fit no part of it. Raises RuntimeError where a backend leaves the device unusable.
    """
    if key_tiles is None:
        q, k, v = take_sample(q, k, v)
    times: dict[str, list[float]] = {}
    keys = {backend.name: f"{key} | {backend.name}" for backend in backends if not backend.is_hosts}
    failures = {name: why for name, key in keys.items() if (why := crash_guard.refusal(key, q.device))}
    for round_ in range(MAX_ROUNDS + 1):
        shortest = {name: min(spent) for name, spent in times.items()}
        racing = [backend for backend in backends if backend.name not in failures]
        if round_ > 2:
            racing = [b for b in racing if shortest[b.name] <= MAX_RATIO_TO_BEST * min(shortest.values())]
        if round_ > MIN_ROUNDS:
            racing = [b for b in racing if sum(times[b.name]) < ENOUGH_MILLISECONDS]
        for backend in racing:
            call = partial(backend, q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles)
            work = partial(time_call, call, q.device)
            try:
                first_try = round_ == 0 and backend.name in keys
                spent = crash_guard.attempt(keys[backend.name], q.device, work) if first_try else work()
            except Exception as error:  # most likely out of memory: only this backend is left out
                if crash_guard.is_device_lost(q.device):
                    raise RuntimeError(f"attention '{backend.name}': {crash_guard.DEVICE_LOST}") from error
                failures[backend.name] = f"failed when it was timed: {type(error).__name__}"
                times.pop(backend.name, None)
                continue
            if round_ > 0:  # round 0 warms up: memory, compilation
                times.setdefault(backend.name, []).append(spent)
    return {name: min(spent) for name, spent in times.items()} | failures


def time_call(work: Callable[[], object], device: torch.device) -> float:
    """Return the milliseconds that the work takes on a device."""
    return (_time_by_events if device.type == "cuda" else _time_by_clock)(work, device)


def _time_by_events(work: Callable[[], object], device: torch.device) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def _time_by_clock(work: Callable[[], object], device: torch.device) -> float:
    synchronise = getattr(getattr(torch, device.type, None), "synchronize", None)
    if device.type == "cpu" or synchronise is None:
        synchronise = _no_operation
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    return (time.perf_counter() - start) * 1000.0


def _no_operation() -> None:
    pass
