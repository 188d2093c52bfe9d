"""Crash guard: an attempt is recorded before it runs; a backend that never returned is not tried again.

A kernel that does not fit its driver can hang, kill the process, or leave the device unusable until the process ends,
and no exception reports that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from . import autotune_cache, selftest
from .backend import Backend
from .problem import Problem
from .selftest import SelfTestResult

Result = TypeVar("Result")
RUNNING_SECONDS = 30.0  # a younger attempt may still run in another process
NEVER_RETURNED = (
    "it never returned when it was last tried on this device; to try it again, run `python kernels --fresh`"
)
RETURNED = "came back"  # key in the file
DEVICE_LOST = "a kernel failed and left the device unusable: restart ComfyUI, that kernel will not be tried again"


def check(backend: Backend, problem: Problem) -> SelfTestResult:
    """Run the self-test of a backend, unless an earlier one never returned. Never raises."""
    key = autotune_cache.attempt_key(problem, backend.name)
    if reason := refusal(key, problem.device):
        return SelfTestResult(reason=reason)
    result = attempt(key, problem.device, lambda: selftest.check(backend, problem))
    return SelfTestResult(reason=DEVICE_LOST) if is_device_lost(problem.device) else result


def refusal(key: str, device: torch.device) -> str:
    """Return why an attempt must not run: it never returned, or the device is unusable already; "" if it may."""
    if not _can_be_lost(device):
        return ""
    earlier = autotune_cache.read(autotune_cache.ATTEMPTS).get(key, {})
    began = earlier.get("began")
    if isinstance(began, int | float) and time.time() - began > RUNNING_SECONDS:
        return NEVER_RETURNED
    # Recording an attempt on an unusable device would accuse the wrong backend.
    return DEVICE_LOST if is_device_lost(device) else ""


def attempt(key: str, device: torch.device, work: Callable[[], Result]) -> Result:
    """Do the work, and record its begin and return unless it has returned once before. Exceptions pass through."""
    if not _can_be_lost(device) or autotune_cache.read(autotune_cache.ATTEMPTS).get(key, {}).get(RETURNED):
        return work()
    autotune_cache.write(key, {"began": time.time()}, autotune_cache.ATTEMPTS)
    try:
        result = work()
    except Exception:  # not an interrupt: the user may have waited in vain
        _record_return(key, device)
        raise
    _record_return(key, device)
    return result


def _record_return(key: str, device: torch.device) -> None:
    if not is_device_lost(device):
        autotune_cache.write(key, {RETURNED: True}, autotune_cache.ATTEMPTS)


def is_device_lost(device: torch.device) -> bool:
    """Tell whether the device can compute nothing any more."""
    return _can_be_lost(device) and not _still_works(device)


def _can_be_lost(device: torch.device) -> bool:
    return device.type != "cpu"


def _still_works(device: torch.device) -> bool:
    try:
        return torch.ones(8, device=device).sum().item() == 8.0
    except Exception:
        return False
