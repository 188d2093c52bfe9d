"""Durations on the device that computes, without waiting for it during the run."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


class Clock:
    """Marks moments and gives the seconds between two marks. On CUDA the answer waits until it is asked."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda" and torch.cuda.is_available()

    def mark(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> Callable[[], float]:
        """A function that returns the seconds between two marks."""
        if isinstance(start, float) or isinstance(end, float):
            if not (isinstance(start, float) and isinstance(end, float)):
                raise TypeError("the two marks were made by different clocks")
            seconds = end - start
            return lambda: seconds

        def resolve() -> float:
            end.synchronize()
            return start.elapsed_time(end) / 1000.0

        return resolve
