"""Below budget 1: any sampler, split and partial runs, batches, two experts; the budget is kept in all of them."""

from __future__ import annotations

import pytest
import torch
from sampling import LONG, TOKENS, WHOLE, accelerated, conditioning, keeps, last, psnr, sample

from astraea.schedules import flow_sigmas, periodic

SCHEDULES = {"tokens": TOKENS, "whole": WHOLE, "probes": periodic("probes", [0.05, 0.05, 0.9], flow_sigmas(30))}
CLOSE = 15.0  # dB; what matters here is that nothing breaks, quality is the benchmarks' matter


@pytest.mark.parametrize("sampler", ["euler", "dpm_2", "dpmpp_2m_sde"])
def test_token_steps_stay_close_and_within_budget(load_tiny, sampler):
    """Whole steps, and all other samplers: tests/host/test_every_sampler.py and benchmarks/samplers.py."""
    model = load_tiny()
    fast, handle = accelerated(model, TOKENS, budget=0.5)
    trained_on = (1, 16, 6, 16, 16)
    dense, result = (sample(m, sampler=sampler, steps=10, shape=trained_on) for m in (model, fast))
    assert psnr(dense, result) > CLOSE
    assert keeps(last(handle), 0.5)


@pytest.mark.parametrize("budget", [0.7, 0.3])
@pytest.mark.parametrize("steps", [8, 13, 30])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_budget_is_kept_for_any_step_count(load_tiny, schedule, steps, budget):
    fast, handle = accelerated(load_tiny(), SCHEDULES[schedule], budget=budget)
    sample(fast, steps=steps, shape=(1, 16, 3, 16, 16), cfg=1.0)
    assert keeps(last(handle), budget, SCHEDULES[schedule])


@pytest.mark.parametrize(("steps", "computed"), [(12, None), (13, 6)])
def test_the_report_says_when_whole_steps_leave_some_of_the_budget(load_tiny, steps, computed):
    fast, handle = accelerated(load_tiny(), WHOLE, budget=0.5)
    sample(fast, steps=steps)
    report = last(handle)
    notes = [note for note in report.notes if "no further whole step" in note]
    assert notes == (
        [f"{computed} of {steps} model calls are computed: no further whole step fits into the budget"] * bool(computed)
    )
    assert report.asked_budget == 0.5


def test_two_halves_of_a_run(load_tiny):
    """KSamplerAdvanced: the first half leaves noise, the second adds none."""
    model = load_tiny()

    def in_halves(which):
        half = sample(which, steps=16, last_step=8, force_full_denoise=False)
        return sample(which, steps=16, start_step=8, latent=half, disable_noise=True)

    fast, handle = accelerated(model, budget=0.5)
    assert psnr(in_halves(model), in_halves(fast)) > CLOSE
    assert [report.steps for report in handle.reports] == [8, 8]
    for report in handle.reports:
        assert keeps(report, 0.5)


def test_partial_denoise(load_tiny):
    model = load_tiny()
    start = sample(model)
    fast, handle = accelerated(model, budget=0.5)
    options = {"steps": 10, "latent": start, "denoise": 0.6}
    assert psnr(sample(model, **options), sample(fast, **options)) > CLOSE
    assert keeps(last(handle), 0.5)


@pytest.mark.parametrize("negative", ["", LONG], ids=["one call a step", "two calls a step"])
def test_batch_of_two(load_tiny, negative):
    model = load_tiny()
    fast, handle = accelerated(model, budget=0.5)
    options = {"shape": (2, 16, 4, 8, 8), "negative": conditioning(negative), "steps": 10}
    dense, result = sample(model, **options), sample(fast, **options)
    for row in range(2):
        assert psnr(dense[row], result[row]) > CLOSE
    assert keeps(last(handle), 0.5)


def test_two_experts_with_two_nodes(load_tiny):
    high, low = load_tiny(), load_tiny()
    fast_high, high_handle = accelerated(high, budget=0.5)
    fast_low, low_handle = accelerated(low, WHOLE, budget=0.4)

    def both(first, second):
        half = sample(first, steps=20, last_step=8, force_full_denoise=False)
        return sample(second, steps=20, start_step=8, latent=half, disable_noise=True)

    assert psnr(both(high, low), both(fast_high, fast_low)) > CLOSE
    assert (len(high_handle.reports), len(low_handle.reports)) == (1, 1)


def test_same_seed_same_result(load_tiny):
    fast, _ = accelerated(load_tiny(), budget=0.4, mode="random")
    assert torch.equal(sample(fast, seed=3), sample(fast, seed=3))


@pytest.mark.parametrize("mode", ["paper", "random", "hold", "refit", "forecast"])
@pytest.mark.parametrize("schedule", ["tokens", "whole"])
def test_every_mode_keeps_the_budget(load_tiny, mode, schedule):
    model = load_tiny()
    fast, handle = accelerated(model, SCHEDULES[schedule], budget=0.5, mode=mode)
    dense, result = sample(model, steps=10), sample(fast, steps=10)
    assert psnr(dense, result) > 10.0
    assert keeps(last(handle), 0.5, SCHEDULES[schedule])


def test_target_speedup_sets_the_budget(load_tiny):
    fast, handle = accelerated(load_tiny(), target_speedup=2.0)
    sample(fast, steps=20)
    report = last(handle)
    assert report.ideal_speedup == pytest.approx(2.0, rel=0.05)
    assert 0.3 < report.computed_share < 0.5


def test_whole_steps_reach_a_target_speedup_with_as_many_steps_as_they_can(load_tiny):
    fast, handle = accelerated(load_tiny(), WHOLE, target_speedup=2.0)
    sample(fast, steps=20)
    report = last(handle)
    assert report.counts()["token"] == 0
    computed = 20 * report.computed_share
    assert 20 / (computed + 1) < 2.0 <= report.ideal_speedup


def test_torch_compile_after_astraea(load_tiny):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = load_tiny()
    fast, handle = accelerated(model, budget=0.5)
    expected = sample(fast, shape=(1, 16, 2, 8, 8))
    compiled = fast.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    result = sample(compiled, shape=(1, 16, 2, 8, 8))
    assert psnr(expected, result) > 40.0
    assert last(handle).counts()["token"] == 7
