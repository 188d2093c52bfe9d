"""The first time that a backend runs on a device, which may take the process with it.

A kernel that does not fit its driver can leave the device unusable until the process ends, or never return, and no
exception tells. So an attempt is written down before it is made: what did not come back is not tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from . import autotune_cache, selftest
from .backend import Backend
from .problem import Problem
from .selftest import Evaluation

Result = TypeVar("Result")
UNDER_WAY_SECONDS = 30.0  # younger attempts may be another process's that is still at it
DID_NOT_COME_BACK = (
    "it did not come back when it was last tried on this device; `python kernels --fresh` forgets that and tries again"
)
DEVICE_LOST = "the device is unusable since a kernel failed on it: restart ComfyUI, that kernel will not be tried again"


def check(backend: Backend, problem: Problem) -> Evaluation:
    """The self-test's verdict; a reason instead where an earlier one did not come back. Never raises."""
    key = autotune_cache.trial_key(problem, backend.name)
    if reason := unsupported_reason(key, problem.device):
        return Evaluation(reason=reason)
    verdict = attempt(key, problem.device, lambda: selftest.check(backend, problem))
    return Evaluation(reason=DEVICE_LOST) if is_lost(problem.device) else verdict


def unsupported_reason(key: str, device: torch.device) -> str:
    """Why something is not to be tried: it did not come back, or the device is lost already; "" if it may."""
    if not _can_be_lost(device):
        return ""
    earlier = autotune_cache.read(autotune_cache.TRIALS).get(key, {})
    began = earlier.get("began")
    if isinstance(began, int | float) and time.time() - began > UNDER_WAY_SECONDS:
        return DID_NOT_COME_BACK
    # Else what comes after the culprit would be blamed, too.
    return DEVICE_LOST if is_lost(device) else ""


def attempt(key: str, device: torch.device, work: Callable[[], Result]) -> Result:
    """Does the work, and writes down before and after, unless it came back once. Its exceptions pass through."""
    if not _can_be_lost(device) or autotune_cache.read(autotune_cache.TRIALS).get(key, {}).get("came back"):
        return work()
    autotune_cache.write(key, {"began": time.time()}, autotune_cache.TRIALS)
    try:
        result = work()
    except Exception:  # not an interrupt by the user, who may have waited in vain
        _note_return(key, device)
        raise
    _note_return(key, device)
    return result


def _note_return(key: str, device: torch.device) -> None:
    if not is_lost(device):
        autotune_cache.write(key, {"came back": True}, autotune_cache.TRIALS)


def is_lost(device: torch.device) -> bool:
    """Whether the device can do nothing any more."""
    return _can_be_lost(device) and not _still_works(device)


def _can_be_lost(device: torch.device) -> bool:
    return device.type != "cpu"


def _still_works(device: torch.device) -> bool:
    try:
        return torch.ones(8, device=device).sum().item() == 8.0
    except Exception:
        return False
