"""Counts what a worker sends to the others: bytes and seconds of torch.distributed's calls, by kind.

Imported in the workers' processes by its file name.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

# Bytes that leave a rank, of so many bytes that it puts in, among P ranks. A ring passes as many on in an all-gather.
SENT: dict[str, Callable[[int, int], int]] = {
    "all_to_all_single": lambda size, ranks: size * (ranks - 1) // ranks,
    "all_gather_into_tensor": lambda size, ranks: size * (ranks - 1),
    "all_reduce": lambda size, ranks: 2 * size * (ranks - 1) // ranks,
}
RING = "batch_isend_irecv"  # what a ring passes on, while it computes
INPUT = {"all_to_all_single": 1, "all_gather_into_tensor": 1, "all_reduce": 0}  # index among the arguments

_sent: dict[str, int] = {}
_spans: list[tuple[Any, Any]] = []


def count() -> None:
    """Begin to count, from zero."""
    _sent.clear()
    _spans.clear()
    for name in SENT:
        function = getattr(dist, name)
        if not hasattr(function, "counted"):
            setattr(dist, name, _counting(name, function))
    if not hasattr(dist.batch_isend_irecv, "counted"):
        dist.batch_isend_irecv = _counting_ring(dist.batch_isend_irecv)


def counted() -> dict[str, Any]:
    """Return the bytes sent by kind of call, and the seconds in all."""
    seconds = sum(_seconds(began, ended) for began, ended in _spans)
    return {"bytes": dict(_sent), "seconds": seconds}


def _counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counting(*args: Any, **kwargs: Any) -> Any:
        sent = args[INPUT[name]]
        ranks = dist.get_world_size(kwargs.get("group"))
        _sent[name] = _sent.get(name, 0) + SENT[name](sent.numel() * sent.element_size(), ranks)
        began = _mark()
        result = function(*args, **kwargs)
        _spans.append((began, _mark()))
        return result

    counting.counted = True  # type: ignore[attr-defined]
    return counting


def _counting_ring(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counting(operations: Any) -> Any:
        sent = [each.tensor for each in operations if each.op is dist.isend]
        _sent[RING] = _sent.get(RING, 0) + sum(tensor.numel() * tensor.element_size() for tensor in sent)
        return [_Waited(request) for request in function(operations)]

    counting.counted = True  # type: ignore[attr-defined]
    return counting


class _Waited:
    """A request whose waiting is timed: what is sent meanwhile costs nothing."""

    def __init__(self, request: Any):
        self._request = request

    def wait(self) -> Any:
        began = _mark()
        result = self._request.wait()
        _spans.append((began, _mark()))
        return result


def _mark() -> Any:
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(began: Any, ended: Any) -> float:
    if isinstance(began, float):
        return float(ended - began)
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000.0
