"""What fails the self-test is not used and says why."""

from __future__ import annotations

import pytest
import torch
from stand_ins import PROBLEM, REFERENCE, K, Q, V, backend, base_two, off_by_a_little, own_folder  # noqa: F401

from astraea.kernels import attend_reference
from astraea.kernels.dispatch import Dispatcher


def uncorrected(q, k, v, *, scale, need_lse):
    """Smoothed keys, and the log-sum-exp not corrected for it."""
    return attend_reference(q, k - k.mean(1, keepdim=True), v, scale=scale)


def never_the_same(q, k, v, *, scale, need_lse):
    out, lse = attend_reference(q, k, v, scale=scale)
    return out + torch.rand_like(out) * 1e-7, lse


def poisoned(q, k, v, *, scale, need_lse):
    out, lse = attend_reference(q, k, v, scale=scale)
    out[0, -1] = float("nan")
    return out, lse


def raising(q, k, v, *, scale, need_lse):
    raise RuntimeError("no kernel image is available\nfor execution on the device")


WRONG = {
    off_by_a_little: "its output is off",
    base_two: "its log-sum-exp is off",
    uncorrected: "its log-sum-exp is off",
    never_the_same: "different bits",
    poisoned: "its output is off by inf",
    raising: "failed: RuntimeError: no kernel image is available",
    lambda q, k, v, *, scale, need_lse: (attend_reference(q, k, v, scale=scale)[0], None): "returned no log-sum-exp",
}


@pytest.mark.parametrize("run", WRONG)
def test_what_fails_the_self_test_is_not_used_and_says_why(run):
    wrong = backend("wrong", run)
    dispatcher = Dispatcher([wrong, REFERENCE])
    assert WRONG[run] in dispatcher.unsupported_reason(wrong, PROBLEM)
    assert "\n" not in dispatcher.unsupported_reason(wrong, PROBLEM)
    choice = dispatcher.choose(Q, K, V, PROBLEM)
    assert choice.backend is REFERENCE
    assert WRONG[run] in choice.reasons["wrong"]
