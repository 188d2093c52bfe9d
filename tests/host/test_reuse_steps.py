"""Steps at budget 0: the model is not entered, and what was predicted before is safe from whoever changes a result."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from sampling import LONG, WHOLE, accelerated, conditioning, last, psnr, sample

from astraea.host.sampling.sampler_probe import profile_of
from astraea.schedules import flow_sigmas, periodic

KEY = "astraea_test"


@pytest.mark.parametrize("negative", ["", LONG], ids=["one call a step", "two calls a step"])
def test_the_model_runs_at_computed_steps_only(load_tiny, negative):
    fast, handle = accelerated(load_tiny(), WHOLE)
    entered = []

    def enter(executor, x, *args, **kwargs):
        entered.append(x.shape[0])
        return executor(x, *args, **kwargs)

    fast.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, enter)
    sample(fast, steps=12, negative=conditioning(negative))
    calls = last(handle).calls
    assert 0 < len(entered) == sum(call.kind != "reuse" for call in calls) < len(calls)


def test_changing_a_result_in_place_does_not_reach_what_is_kept(load_tiny):
    def sampled(spoil):
        model = load_tiny()

        def change(executor, *args, **kwargs):
            denoised = executor(*args, **kwargs)
            kept = denoised.clone()
            if spoil:
                denoised.zero_()
            return kept

        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, change)
        return sample(accelerated(model, WHOLE)[0], steps=12)

    assert torch.equal(sampled(spoil=False), sampled(spoil=True))


def test_forecasts_that_fail_go_less_far(load_tiny):
    """Few large steps at strong guidance: predictions swing, a forecast all the way would be far worse than holding."""
    model = load_tiny()
    settings = {"steps": 10, "cfg": 6.0, "shape": (1, 16, 6, 16, 16)}
    dense = sample(model, **settings)
    held, forecast = (
        psnr(dense, sample(accelerated(model, WHOLE, mode=m, budget=0.5)[0], **settings)) for m in ("hold", "default")
    )
    assert forecast > held - 3.0


# Where steps are this large a correction gains a multistep solver little, and may lose it a little.
@pytest.mark.newest_host
@pytest.mark.parametrize(
    ("sampler", "negative", "gain"),
    [("euler", LONG, 0.3), ("heun", "", 0.3), ("res_multistep", "", -1.0), ("uni_pc", "", 0.3)],
)
def test_what_reuse_steps_missed_is_made_good(load_tiny, sampler, negative, gain):
    model, every_other = load_tiny(), periodic("every other", [0.0, 1.0], flow_sigmas(30), full_start=1)
    gained = []
    for seed in range(2):
        settings = {"steps": 20, "shape": (1, 16, 6, 16, 16), "sampler": sampler, "negative": conditioning(negative)}
        dense, corrected, forecast = (
            sample(m, seed=seed, **settings)
            for m in (model, accelerated(model, every_other)[0], accelerated(model, every_other, mode="forecast")[0])
        )
        gained.append(psnr(dense, corrected) - psnr(dense, forecast))
    assert mean(gained) > gain, gained


def probed(model, sampler, steps=20):
    from comfy.samplers import CFGGuider, calculate_sigmas, sampler_object

    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    levels = sigmas.tolist()
    profile = profile_of(CFGGuider(model), sampler_object(sampler), sigmas)
    assert sigmas.tolist() == levels
    return profile


@pytest.mark.parametrize(
    ("sampler", "memory", "calls"),
    [
        ("euler", 0, 20),
        ("euler_ancestral", 0, 20),
        ("dpmpp_2m", 1, 20),
        ("dpmpp_2m_sde", 1, 20),
        ("res_multistep", 1, 20),
        ("lms", 3, 20),
        ("uni_pc", 3, 20),
        ("uni_pc_bh2", 3, 20),
        ("heun", 1, 39),
        ("dpm_2", 1, 39),
        ("dpmpp_2s_ancestral", 1, 39),
        ("heunpp2", 1, 57),
        ("seeds_3", 2, 58),
    ],
)
def test_the_probe_finds_the_samplers_calls_and_how_it_uses_predictions(load_tiny, sampler, memory, calls):
    profile = probed(load_tiny(), sampler)
    assert len(profile.calls) == sum(profile.calls_per_step) == calls
    assert profile.solver.memory == memory
    assert not profile.full_reason
    assert not profile.uncorrected_reason


def test_samplers_that_nothing_can_be_planned_for_run_in_full(load_tiny):
    assert probed(load_tiny(), "dpm_adaptive").full_reason


def test_the_probe_leaves_random_numbers_alone(load_tiny):
    model = load_tiny()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    for sampler in ("euler_ancestral", "dpmpp_2m_sde", "uni_pc"):
        probed(model, sampler)
    assert torch.equal(torch.rand(3), expected)
