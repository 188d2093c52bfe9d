"""Noise levels as other nodes make them: rising, repeated, off the grid, few, in another type, with noise added."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
import torch
from sampling import PROMPT, TOKENS, WHOLE, accelerated, conditioning, last, psnr, sample

from astraea.schedules import flow_sigmas

SHAPE = (1, 16, 3, 8, 8)
FALLING = [*flow_sigmas(12, 3.0), 0.0]


def custom(model, sigmas, sampler="euler", cfg=1.0, function=None):
    """What SamplerCustom returns."""
    latent = torch.zeros(SHAPE)
    chosen = comfy.samplers.sampler_object(sampler) if function is None else comfy.samplers.KSAMPLER(function)
    return comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(latent, 0),
        cfg,
        chosen,
        sigmas,
        conditioning(PROMPT),
        conditioning(""),
        latent,
        disable_pbar=True,
        seed=0,
    )


@pytest.mark.parametrize("schedule", [WHOLE, TOKENS], ids=["whole steps", "token steps"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "res_multistep"])
@pytest.mark.parametrize(
    "levels",
    [FALLING[::-1], [0.0, 0.3, 0.7], [1.0, 0.7, 0.7, 0.4, 0.0], [1.0, 0.6, 0.8, 0.3, 0.0]],
    ids=["rising", "rising from 0", "repeated", "up and down"],
)
def test_levels_that_do_not_fall_run_in_full_and_the_report_says_so(load_tiny, levels, sampler, schedule):
    model, sigmas = load_tiny(), torch.tensor(levels)
    fast, handle = accelerated(model, schedule, budget=0.5)
    # Some samplers give what is not a number here, with the node and without.
    assert torch.equal(custom(fast, sigmas, sampler).nan_to_num(7.0), custom(model, sigmas, sampler).nan_to_num(7.0))
    assert last(handle).computed_share == 1.0
    assert any("do not fall" in note for note in last(handle).notes)


@pytest.mark.parametrize("levels", [[0.0], [0.5], []], ids=["0", "one", "none"])
@pytest.mark.parametrize("plan", [{"budget": 0.5}, {"target_speedup": 2.0}], ids=["budget", "target"])
@pytest.mark.parametrize("schedule", [WHOLE, TOKENS, None], ids=["whole steps", "token steps", "auto"])
def test_without_a_step_the_result_is_the_hosts(load_tiny, levels, plan, schedule):
    """SplitSigmas at 0 switches off one of two experts."""
    model, sigmas = load_tiny(), torch.tensor(levels)
    fast, _ = accelerated(model, schedule, **plan)
    try:
        expected = custom(model, sigmas)
    except Exception as error:
        with pytest.raises(type(error)):
            custom(fast, sigmas)
    else:
        assert torch.equal(custom(fast, sigmas), expected)


@pytest.mark.parametrize("levels", [[1.0, 0.0], [0.7, 0.2], [1.0, 0.6, 0.0], [1.0, 0.995, 0.9925, 0.98, 0.97, 0.96]])
def test_few_levels_work(load_tiny, levels):
    fast, handle = accelerated(load_tiny(), WHOLE, budget=0.5)
    assert torch.isfinite(custom(fast, torch.tensor(levels))).all()
    assert last(handle).steps == len(levels) - 1


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "euler_ancestral"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_levels_in_another_type_are_as_good(load_tiny, sampler, dtype):
    model, sigmas = load_tiny(), torch.tensor(FALLING)
    fast, handle = accelerated(model, WHOLE, budget=0.5)
    expected = psnr(custom(model, sigmas, sampler), custom(fast, sigmas, sampler))
    other = sigmas.to(dtype)
    found = psnr(custom(model, other, sampler).float(), custom(fast, other, sampler).float())
    assert found > expected - (3.0 if dtype is torch.float64 else 8.0)  # half precision costs the dense run, too
    assert last(handle).computed_share < 0.6


def told_less(amount):
    """An Euler sampler that gives the model a lower noise level than its own, as nodes do for more detail."""

    def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        ones = x.new_ones([x.shape[0]])
        for i in range(len(sigmas) - 1):
            share = 1.0 - amount if 0 < i < len(sigmas) - 2 else 1.0
            denoised = model(x, sigmas[i] * share * ones, **extra_args)
            if callback is not None:
                callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
            x = denoised + (x - denoised) * (sigmas[i + 1] / sigmas[i])
        return x

    return euler


@pytest.mark.parametrize("schedule", [WHOLE, TOKENS], ids=["whole steps", "token steps"])
def test_steps_are_the_samplers_where_the_model_is_given_other_levels(load_tiny, schedule):
    model, sigmas = load_tiny(), torch.tensor([*flow_sigmas(24, 3.0), 0.0])
    fast, handle = accelerated(model, schedule, budget=0.4)
    same, shifted = (
        psnr(custom(model, sigmas, function=told_less(a)), custom(fast, sigmas, function=told_less(a)))
        for a in (0.0, 0.1)
    )
    report = last(handle)
    assert [call.step for call in report.calls] == list(range(24)), "each step is seen once"
    assert report.computed_share == pytest.approx(0.4, abs=1 / 24)
    assert shifted > same - 8.0
    assert any("other noise levels" in note for note in report.notes)


def test_the_hosts_own_sampler_with_a_node_that_lowers_the_level(load_tiny):
    """A model function wrapper that changes the timestep, as some detail nodes are made."""
    model = load_tiny().clone()

    def lower(apply, given):
        return apply(given["input"], given["timestep"] * 0.9, **given["c"])

    model.set_model_unet_function_wrapper(lower)
    fast, handle = accelerated(model, WHOLE, budget=0.5)
    options = {"steps": 20, "shape": SHAPE}
    assert psnr(sample(model, **options), sample(fast, **options)) > 25.0
    assert sorted({call.step for call in last(handle).calls}) == list(range(20))


def test_noise_that_is_added_back_begins_anew(load_tiny):
    """Restart sampling: the level rises within one sampler call, by a sampler that has steps of its own."""

    def restarting(model, x, sigmas, extra_args=None, callback=None, disable=None):
        levels = [*sigmas.tolist()[:8], *sigmas.tolist()[4:]]
        ones = x.new_ones([x.shape[0]])
        for i in range(len(levels) - 1):
            denoised = model(x, levels[i] * ones, **extra_args)
            if callback is not None:
                callback({"x": x, "i": min(i, len(sigmas) - 2), "denoised": denoised})
            following = levels[i + 1]
            if following > levels[i]:
                x = denoised + (x - denoised) * (following / levels[i])
            else:
                x = denoised + (x - denoised) * (following / levels[i])
        return x

    model, sigmas = load_tiny(), torch.tensor(FALLING)
    fast, handle = accelerated(model, WHOLE, budget=0.5)
    result = custom(fast, sigmas, function=restarting)
    assert torch.isfinite(result).all()
    assert psnr(custom(model, sigmas, function=restarting), result) > 20.0
    assert last(handle).finished


def test_frames_that_are_made_one_after_another_run_in_full(load_tiny):
    """Causal sampling: each frame goes on from what only a forward of the model keeps."""
    model = load_tiny().clone()
    model.model_options.setdefault("transformer_options", {})["ar_state"] = {"start_frame": 0}
    fast, handle = accelerated(model, WHOLE, budget=0.5)
    options = {"steps": 6, "shape": SHAPE}
    assert torch.equal(sample(fast, **options), sample(model, **options))
    assert last(handle).computed_share == 1.0
    assert any("one after another" in note for note in last(handle).notes)
