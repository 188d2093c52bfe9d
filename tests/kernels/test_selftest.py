"""A backend that fails its self-test is not used, and the reason is stated; the shipped backends pass."""

from __future__ import annotations

import pytest
import torch
from stand_ins import PROBLEM, REFERENCE, K, Q, V, backend, base_two, off_by_a_little, own_folder  # noqa: F401

from astraea.kernels import DISPATCHER, Problem, attend_reference, selftest
from astraea.kernels.dispatch import Dispatcher


def uncorrected(q, k, v, *, scale, need_lse):
    """Keys minus their mean, without the correction of the log-sum-exp."""
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
def test_a_backend_that_fails_is_not_used_and_the_reason_is_stated(run):
    wrong = backend("wrong", run)
    dispatcher = Dispatcher([wrong, REFERENCE])
    assert WRONG[run] in dispatcher.unsupported_reason(wrong, PROBLEM)
    assert "\n" not in dispatcher.unsupported_reason(wrong, PROBLEM)
    assert dispatcher.choose(Q, K, V, PROBLEM).backend is REFERENCE


@pytest.mark.parametrize("found", DISPATCHER.backends, ids=lambda found: found.name)
@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_every_backend_that_is_found_passes_where_it_can_run(found, device):
    kind = Problem(torch.device(device), torch.float16, 1, 64, 64, 2, 64)
    if reason := found.unsupported_reason(kind):
        pytest.skip(f"{found.name} was not tested on {device}: {reason}")
    assert selftest.check(found, kind).reason == ""
