"""Every sampler and every scheduler that the host lists: none crashes, budgets hold, and corrections come out exact.

How close results are to dense ones at the trained size is measured by benchmarks/samplers.py; here for a few.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import comfy.model_base
import comfy.samplers
import pytest
import torch
from sampling import TOKENS, WHOLE, last, psnr, random_wan, sample

from astraea.engine.planning.plan import make_plan
from astraea.engine.report import ReportHandle
from astraea.engine.sampler.solver import Solver
from astraea.host.sampling.patch_model import accelerate
from astraea.host.sampling.sampler_probe import profile_of
from astraea.nodes.accelerate_inputs import AccelerateInputs, choose_plan
from astraea.schedules import Schedule, whole_steps
from parabolas import Parabolas

# The _gpu ones are the same functions with another place for their noise.
SAMPLERS = [name for name in comfy.samplers.KSampler.SAMPLERS if not name.endswith("_gpu")]
SCHEDULERS = list(comfy.samplers.KSampler.SCHEDULERS)
UNFORESEEABLE = {"dpm_adaptive"}
SMALL = (1, 16, 2, 8, 8)
PLANS = {
    "whole steps": make_plan(WHOLE, budget=0.5),
    "token steps": make_plan(TOKENS, budget=0.5),
    "mode paper": make_plan(TOKENS, budget=0.5, mode="paper"),
}


@pytest.fixture(scope="module")
def small_model():
    with torch.inference_mode():
        return random_wan(num_layers=2)


def one_step(report):
    """The largest part of a run's tokens that one step has."""
    tokens: Counter[int] = Counter()
    for call in report.calls:
        tokens[call.step] += call.tokens
    return max(tokens.values()) / sum(tokens.values())


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_crashes_and_the_budget_is_kept_or_it_is_said_why(small_model, sampler, plan):
    for cfg in (1.0, 3.0):
        for steps in (4, 7):
            handle = ReportHandle()
            fast = accelerate(small_model, PLANS[plan], handle)
            options = {"sampler": sampler, "steps": steps, "cfg": cfg, "shape": SMALL}
            result = sample(fast, **options)
            report = last(handle)
            assert torch.isfinite(result).all()
            if sampler in UNFORESEEABLE:
                assert report.computed_share == 1.0
                assert any("chooses its model calls while it runs" in note for note in report.notes)
            else:
                assert {call.step for call in report.calls} == set(range(report.steps))
                assert report.computed_share <= 0.5 + one_step(report)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_scheduler_crashes_and_the_budget_is_kept(small_model, scheduler):
    for steps in (3, 9, 20):
        handle = ReportHandle()
        fast = accelerate(small_model, PLANS["whole steps"], handle)
        result = sample(fast, scheduler=scheduler, steps=steps, cfg=1.0, shape=SMALL)
        assert torch.isfinite(result).all()
        report = last(handle)
        assert report.computed_share <= 0.5 + one_step(report)


def smooth_model(model):
    """The model's predictions become parabolas of the noise level, of their own for each conditioning."""
    generator = torch.Generator().manual_seed(3)
    curves = torch.randn(2, 3, *SMALL[1:], generator=generator)

    def predict(x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        sigma = float(transformer_options["sigmas"].flatten()[0])
        known = [curves[role] for role in transformer_options["cond_or_uncond"]]
        return torch.stack([base + sigma * slope + 0.5 * sigma**2 * curvature for base, slope, curvature in known]).to(
            x.dtype
        )

    return predict


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_corrections_bring_every_sampler_back_to_the_dense_run(small_model, sampler, monkeypatch):
    """Whatever the sampler does with old predictions and several calls a step.

    Three computed predictions give all others exactly here. The run ends amid noise: a last step to 0 would hide all.
    """
    monkeypatch.setattr(small_model.model, "_apply_model", smooth_model(small_model))
    monkeypatch.setattr("astraea.engine.run.PredictionPrior", Parabolas)
    steps, pattern = 12, "FFrFrrFrrrFF"
    options = {"sampler": sampler, "steps": 16, "last_step": steps, "force_full_denoise": False, "shape": SMALL}
    sigmas = comfy.samplers.KSampler(small_model, 16, "cpu", sampler, "simple", 1.0).sigmas[: steps + 1]
    for cfg in (1.0, 3.0):
        dense = sample(small_model, cfg=cfg, **options)
        guider = comfy.samplers.CFGGuider(small_model)
        grid = profile_of(guider, comfy.samplers.sampler_object(sampler), sigmas).levels[:steps]
        budgets = [1.0 if kind == "F" else 0.0 for kind in pattern]
        schedule = Schedule("pattern", tuple(zip(grid, budgets, strict=True)))
        handle = ReportHandle()
        result = sample(accelerate(small_model, make_plan(schedule), handle), cfg=cfg, **options)
        report = last(handle)
        held = sample(accelerate(small_model, make_plan(schedule, mode="hold"), ReportHandle()), cfg=cfg, **options)
        if any("keep the newest" in note for note in report.notes):
            assert torch.equal(result, held)
        elif sampler in UNFORESEEABLE:
            assert torch.equal(result, dense)
        else:
            assert report.computed_share < 0.7
            # Heun++ asks for two levels ahead, so that some of its gaps lie between predictions of its own trial steps.
            assert psnr(dense, result) > 70.0  # the probe reads weights to a thousandth
            # With lcm nothing is left of old predictions, so that neither misses anything.
            gained = 3.0 if sampler == "heunpp2" else 10.0
            assert psnr(dense, result) > psnr(dense, held) + gained or torch.equal(dense, held)


# One of each kind: several calls a step, multistep, slopes of old latents, CFG++. With samplers that add noise single
# seeds differ by 10 dB and more: what they gain is for the benchmark to measure.
KINDS = ["heun", "res_multistep", "lms", "euler_cfg_pp"]


@pytest.mark.newest_host
@pytest.mark.parametrize("sampler", KINDS)
def test_the_default_is_not_behind_steps_held_at_equal_calls(load_tiny, sampler):
    """At the size that the model was trained at, mean of two seeds and guidance 1 and 3."""
    model, ahead = load_tiny(), []
    options = {"sampler": sampler, "steps": 16, "shape": (1, 16, 6, 16, 16)}
    for cfg, seed in ((1.0, 0), (3.0, 1)):
        dense = sample(model, cfg=cfg, seed=seed, **options)
        found = {}
        held = make_plan(whole_steps("held", 0.5), mode="hold", budget=0.5)
        for mode, plan in (("default", choose_plan(AccelerateInputs("auto", 0.5))), ("hold", held)):
            found[mode] = psnr(dense, sample(accelerate(model, plan, ReportHandle()), cfg=cfg, seed=seed, **options))
        ahead.append(found["default"] - found["hold"])
    assert sum(ahead) / len(ahead) > -1.0


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION", "FLOW"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc", "dpmpp_2m_sde"])
def test_weights_mean_the_same_for_models_that_are_no_flow(kind, sampler):
    """Of one list of noise shares, each kind of model has its own sigmas; what is signal in the latents is the same.

    If all predictions are 1, that and what is left of the first latents are what an exact solver's weights sum to.
    """
    config = SimpleNamespace(sampling_settings={})
    sampling = comfy.model_base.model_sampling(config, getattr(comfy.model_base.ModelType, kind))
    shares = [0.9, 0.7, 0.5, 0.3, 0.15, 0.0]
    sigmas = shares if kind == "FLOW" else [share / (1.0 - share) for share in shares]
    patcher = SimpleNamespace(get_model_object=lambda name: sampling, model=SimpleNamespace())
    guider = SimpleNamespace(model_patcher=patcher, cfg=1.0)
    profile = profile_of(guider, comfy.samplers.sampler_object(sampler), torch.tensor(sigmas))
    assert profile.levels == pytest.approx(shares, abs=1e-6)
    for step, row in enumerate(profile.solver.weights_after, start=1):
        signal, begun = 1.0 - shares[step], shares[step] * (1.0 - shares[0]) / shares[0]
        if sampler == "euler":
            assert row == pytest.approx(Solver.from_sigmas(shares).weights_after[step - 1], abs=1e-4)
        if sampler.endswith("sde"):  # it replaces a part of the first latents by noise, and that by signal
            assert signal - begun - 1e-4 <= sum(row) <= signal + 1e-4
        else:
            assert sum(row) == pytest.approx(signal - begun, abs=1e-3)
