"""Durations on the device that computes, without waiting for it during the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

import torch

Mark: TypeAlias = "float | torch.cuda.Event"


class DeviceTimer:
    """Marks moments on a device. On CUDA a duration is resolved when it is asked for."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda" and torch.cuda.is_available()

    def mark(self) -> Mark:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Mark, end: Mark) -> Callable[[], float]:
        """Return a function that gives the seconds between two marks. Raises TypeError for marks of different kinds."""
        if isinstance(start, float) or isinstance(end, float):
            if not (isinstance(start, float) and isinstance(end, float)):
                raise TypeError("the two marks were made by different timers")
            seconds = end - start
            return lambda: seconds

        def resolve() -> float:
            end.synchronize()
            return start.elapsed_time(end) / 1000.0

        return resolve
