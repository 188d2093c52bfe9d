"""Token steps as ComfyUI calls them: cond and uncond in one call or in two."""

from __future__ import annotations

from itertools import groupby

import pytest
from sampling import LONG, accelerated, conditioning, last, sample

from astraea.schedules import flow_sigmas, uniform


@pytest.mark.parametrize("negative", ["", LONG], ids=["one call a step", "two calls a step"])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_all_calls_of_a_step_compute_as_many_tokens(load_tiny, negative, sampler):
    """64 tokens in units of 16: a budget of 0.3 is rounded at every step, and what that leaves is carried on."""
    fast, handle = accelerated(load_tiny(), uniform("tokens", 0.3, flow_sigmas(30)))
    sample(fast, steps=16, sampler=sampler, negative=conditioning(negative))
    report = last(handle)
    shares = {
        step: {call.computed / call.tokens for call in calls}
        for step, calls in groupby(report.calls, key=lambda call: call.step)
    }
    assert all(len(found) == 1 for found in shares.values()), shares
    assert len(set.union(*shares.values())) > 1
    assert report.computed_share == pytest.approx(report.asked_budget, abs=0.01)
