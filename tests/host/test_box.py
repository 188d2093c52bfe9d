"""A model whose blocks are not known: whole steps are skipped as with its runner, to the bit."""

from __future__ import annotations

import pytest
import torch
from sampling import accelerated, last, sample

from astraea.engine.planning.plan import make_plan
from astraea.engine.report import ReportHandle
from astraea.host.sampling.patch_model import accelerate
from astraea.models import describe_box


@pytest.fixture
def as_box(monkeypatch):
    """`as_box()`: from now on every model is one whose blocks are not known."""

    def install():
        for module in ("architectures", "wrappers"):
            monkeypatch.setattr(f"astraea.host.sampling.{module}.describe_on_host", lambda model: describe_box("wan"))

    return install


@pytest.mark.parametrize("sampler", ["euler", "heun", "res_multistep"])
@pytest.mark.parametrize(("budget", "steps", "cfg"), [(0.5, 20, 1.0), (0.4, 30, 3.0), (0.3, 12, 6.0), (1.0, 8, 3.0)])
def test_whole_steps_of_a_box_are_those_of_its_runner(load_tiny, as_box, budget, steps, cfg, sampler):
    model, run = load_tiny(), {"steps": steps, "cfg": cfg, "sampler": sampler, "shape": (1, 16, 3, 8, 8)}

    def automatic():
        handle = ReportHandle()
        return sample(accelerate(model, make_plan(None, budget=budget), handle), **run), last(handle)

    expected, known = automatic()
    as_box()
    result, report = automatic()
    assert torch.equal(result, expected)
    assert [call.kind for call in report.calls] == [call.kind for call in known.calls]
    assert report.schedule == known.schedule


def test_partial_steps_of_a_box_become_whole_ones(load_tiny, as_box):
    as_box()
    fast, handle = accelerated(load_tiny(), budget=0.5)
    assert sample(fast, steps=12).isfinite().all()
    report = last(handle)
    assert {call.kind for call in report.calls} == {"full", "reuse"}
    assert report.cache_policy == "whole steps"
