"""Faults that were found by trying combinations of nodes, samplers and models, each reduced to its core."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from host_nodes import call
from sampling import TOKENS, WHOLE, accelerated, last, psnr, sample

AS_TRAINED = (1, 16, 4, 16, 16)


def mean_of_two_places(model: Any) -> Any:
    """As nodes against seams do it: the model runs a second time, on latents that are moved, and gives the mean."""
    moved = model.clone()

    def run_twice(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        other = executor(x.roll((8, 8), (-2, -1)), *args, **kwargs)
        return (executor(x, *args, **kwargs) + other.roll((-8, -8), (-2, -1))) / 2

    moved.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "mean of two places", run_twice)
    return moved


@pytest.mark.parametrize("mode", ["schedule's own", "paper", "hold"])
def test_a_model_that_runs_several_times_in_one_call_has_no_token_steps(load_tiny, mode):
    """The residuals of one place were taken for those of another."""
    twice = mean_of_two_places(load_tiny())
    fast, handle = accelerated(twice, TOKENS, budget=0.5, **({} if mode == "schedule's own" else {"mode": mode}))
    options = {"steps": 16, "shape": AS_TRAINED}
    dense, half = sample(twice, **options), sample(twice, **options | {"steps": 8})
    assert psnr(dense, sample(fast, **options)) > psnr(dense, half) - 1.0
    report = last(handle)
    assert any("runs the model several times in one call" in note for note in report.notes)
    assert report.computed_share == (1.0 if mode == "paper" else pytest.approx(0.5, abs=0.1))
    assert {each.kind for each in report.calls if each.step > 1} <= {"full", "reuse"}


@pytest.mark.parametrize("sampler", ["heun", "dpm_2_ancestral"])
def test_a_step_that_falls_to_a_small_part_of_its_noise_level(load_tiny, sampler):
    """Solvers then take many times the difference of prediction and latents: a correction burst the picture."""
    model = load_tiny()
    fast, handle = accelerated(model, WHOLE, budget=0.5)
    full, half = (comfy.samplers.KSampler(model, n, "cpu", "euler", "ddim_uniform", 1.0).sigmas for n in (10, 5))
    assert max(full[:-2] / full[1:-1]) > 20.0
    options = {"sampler": sampler, "shape": AS_TRAINED}
    dense = sample(model, sigmas=full, **options)
    result = sample(fast, sigmas=full, **options)
    assert psnr(dense, result) > psnr(dense, sample(model, sigmas=half, **options)) - 1.0
    assert last(handle).computed_share < 0.5


def test_lazy_cache_is_not_fooled_by_reused_predictions(load_tiny):
    """It took one for a sign that nothing changes, and answered all later steps."""
    settings = {"reuse_threshold": 0.2, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    lazy = call("comfy_extras.nodes_easycache", "LazyCache", model=load_tiny(), **settings)
    fast, handle = accelerated(lazy, WHOLE, budget=0.5)
    assert torch.equal(sample(fast), sample(lazy))
    assert "LazyCache" in last(handle).summary()
    assert last(handle).counts()["reuse"] == 0
