"""The report tells what ran: skipped calls, blocks that ran whole, budgets that could not be kept, seeds."""

from __future__ import annotations

import json

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.k_diffusion.sampling import sample_euler
from comfy.patcher_extension import WrappersMP
from host_nodes import call
from sampling import LONG, PROMPT, TOKENS, WHOLE, accelerated, conditioning, last, sample

from astraea.nodes.report_text import report_text

RUN = {"steps": 16, "shape": (1, 16, 3, 8, 8), "cfg": 1.0}


def counted(model):
    """A clone, and the list of calls whose model really began."""
    calls = []

    def inside(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "counter", inside)
    return clone, calls


def skipping(kind):
    """A cache of another pack, that answers every other call from its memory."""
    kept, seen = {}, [0]

    def cached(executor, *args, **kwargs):
        seen[0] += 1
        if seen[0] % 2 == 0 and "answer" in kept:
            return kept["answer"].clone()
        kept["answer"] = executor(*args, **kwargs)
        return kept["answer"].clone()

    return kind, cached


@pytest.mark.parametrize("budget", [1.0, 0.5])
@pytest.mark.parametrize("kind", [WrappersMP.DIFFUSION_MODEL, WrappersMP.PREDICT_NOISE], ids=["in", "before the call"])
def test_calls_that_another_cache_answers_are_not_computed(load_tiny, kind, budget):
    model = load_tiny().clone()
    model.add_wrapper_with_key(kind, "cache", skipping(kind)[1])
    watched, calls = counted(model)
    fast, handle = accelerated(watched, WHOLE, budget=budget)
    sample(fast, **RUN)
    report = last(handle)
    assert report.computed_share == pytest.approx(len(calls) / 16)
    assert report.counts()["answered"] > 0
    assert any("answered by another node" in note for note in report.notes)


@pytest.mark.parametrize("mode", [None, "paper"])
def test_blocks_that_must_run_whole_are_counted_whole(load_tiny, mode):
    """A patch inside of blocks, as NAG and others put it there, once token steps have been planned."""

    def patch_later(executor, *args, **kwargs):
        options = args[5]
        if options["sigmas"][0] < options["sample_sigmas"][0]:
            args = (*args[:5], {**options, "patches": {"attn1_patch": [lambda given: given["x"]]}}, *args[6:])
        return executor(*args, **kwargs)

    model = load_tiny().clone()
    model.add_wrapper_with_key("diffusion_model", "patch", patch_later)
    fast, handle = accelerated(model, TOKENS, budget=0.5, mode=mode)
    sample(fast, **RUN)
    report = last(handle)
    assert report.computed_share == 1.0
    assert report.counts() == {"full": 16, "token": 0, "reuse": 0, "answered": 0}
    assert any("patches inside it" in note for note in report.notes)


def test_a_few_blocks_that_run_whole_count_for_their_part(load_tiny):
    model = load_tiny()
    blocks = model.model.diffusion_model.blocks
    original = blocks[0].forward
    blocks[0].forward = lambda *args, **kwargs: original(*args, **kwargs)
    try:
        fast, handle = accelerated(model, TOKENS, budget=0.5)
        sample(fast, **RUN)
    finally:
        del blocks[0].forward
    shares = [call.computed / call.tokens for call in last(handle).calls if call.kind == "token"]
    plain, usual = accelerated(load_tiny(), TOKENS, budget=0.5)
    sample(plain, **RUN)
    expected = [call.computed / call.tokens for call in last(usual).calls if call.kind == "token"]
    for share, alone in zip(shares, expected, strict=True):
        assert share == pytest.approx((1 + (len(blocks) - 1) * alone) / len(blocks), abs=0.02)


def test_prompts_that_change_over_time_overspend_and_the_reason_is_told(load_tiny):
    """Five scheduled prompts: each is computed when it first appears."""
    parts = [(i / 5, (i + 1) / 5) for i in range(5)]
    positive = [
        [conditioning(f"{PROMPT} {i}")[0][0], {"start_percent": a, "end_percent": b}] for i, (a, b) in enumerate(parts)
    ]
    fast, handle = accelerated(load_tiny(), WHOLE, budget=0.4)
    sample(fast, **{**RUN, "steps": 14}, positive=positive)
    report = last(handle)
    assert report.computed_share > 0.4
    assert any("nothing had been kept" in note for note in report.notes)
    assert not any("no further whole step" in note for note in report.notes)


def test_how_many_steps_are_computed_is_counted(load_tiny):
    fast, handle = accelerated(load_tiny(), WHOLE, budget=0.5)
    sample(fast, **{**RUN, "steps": 13})
    report = last(handle)
    computed = len({call.step for call in report.calls if call.kind == "full"})
    notes = [note for note in report.notes if "are computed" in note]
    assert notes == [f"{computed} of 13 model calls are computed: no further whole step fits into the budget"]


def test_chance_follows_the_seed(load_tiny):
    """The host passes the seed by position or by name, as its version has it."""
    fast, _ = accelerated(load_tiny(), TOKENS, budget=0.5, mode="random")
    latent = torch.zeros(RUN["shape"])
    noise = comfy.sample.prepare_noise(latent, 0)

    def result(seed):
        guider = comfy.samplers.CFGGuider(fast)
        guider.set_conds(conditioning(PROMPT), conditioning(LONG))
        guider.set_cfg(3.0)
        sigmas = comfy.samplers.KSampler(fast, 8, "cpu", "euler", "simple", 1.0).sigmas
        return guider.sample(
            noise, latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=seed
        )

    assert torch.equal(result(1), result(1))
    assert not torch.equal(result(1), result(2))


def test_the_probe_draws_nothing_from_a_noise_sampler_of_the_options(load_tiny):
    """A noise sampler with a state: at budget 1 the result is the host's to the bit, and no probe has advanced it."""

    def sampler():
        generator = torch.Generator().manual_seed(5)
        shape = RUN["shape"]
        return comfy.samplers.ksampler(
            "euler_ancestral", {"noise_sampler": lambda s, t: torch.randn(shape, generator=generator)}
        )

    def result(model):
        latent = torch.zeros(RUN["shape"])
        sigmas = comfy.samplers.KSampler(model, 8, "cpu", "euler_ancestral", "simple", 1.0).sigmas
        return comfy.sample.sample_custom(
            model, comfy.sample.prepare_noise(latent, 0), 1.0, sampler(), sigmas, conditioning(PROMPT),
            conditioning(""), latent, disable_pbar=True, seed=0,
        )  # fmt: skip

    model = load_tiny()
    full, _ = accelerated(model, WHOLE, budget=1.0)
    assert torch.equal(result(full), result(model))
    # Below 1 it is not probed either: two runs draw the same noise.
    fast, handle = accelerated(model, WHOLE, budget=0.5)
    assert torch.equal(result(fast), result(fast))
    assert any("keep the newest" in note for note in last(handle).notes)


def test_a_run_too_short_for_its_budget_says_what_it_spent_and_why(load_tiny):
    fast, handle = accelerated(load_tiny(), WHOLE, budget=0.2)
    sample(fast, **{**RUN, "steps": 5})
    assert last(handle).computed_share == pytest.approx(0.4)
    assert (
        "40% is computed, more than was asked for: the first and the last step were computed in full"
        in last(handle).notes
    )


def test_a_sampler_that_calls_more_often_than_planned_overspends_and_the_reason_is_told(load_tiny, monkeypatch):
    """Of another pack, so not probed: three calls at the first step."""

    def thrice(model, x, sigmas, extra_args=None, callback=None, **options):
        for _ in range(2):
            model(x, sigmas[0] * x.new_ones(x.shape[0]), **(extra_args or {}))
        return sample_euler(model, x, sigmas, extra_args=extra_args, callback=callback, **options)

    monkeypatch.setattr(comfy.samplers, "sampler_object", lambda name: comfy.samplers.KSAMPLER(thrice))
    fast, handle = accelerated(load_tiny(), WHOLE, budget=0.5)
    sample(fast, **{**RUN, "steps": 10})
    assert last(handle).computed_share > 0.53
    assert any("more often at some steps than was planned" in note for note in last(handle).notes)


def test_calls_are_counted_where_the_last_step_has_fewer(load_tiny):
    """Heun, 8 steps: 15 calls, of which half a budget pays for 7."""
    fast, handle = accelerated(load_tiny(), WHOLE, budget=0.5)
    sample(fast, **{**RUN, "steps": 8, "sampler": "heun", "cfg": 1.0})
    full = sum(call.kind == "full" for call in last(handle).calls)
    notes = [note for note in last(handle).notes if "are computed" in note]
    assert notes == [f"{full} of 15 model calls are computed: no further whole step fits into the budget"]


@pytest.mark.parametrize("settings", [{"budget": 1.0}, {"budget": 0.5, "mode": "paper", "cache": "none"}])
def test_a_run_in_full_has_no_speed_up(load_tiny, settings):
    fast, handle = accelerated(load_tiny(), WHOLE, **settings)
    sample(fast, **RUN)
    assert "none: every step was computed in full" in report_text(last(handle))
    assert "ideal" not in report_text(last(handle))
    assert not any("forecast" in note for note in last(handle).notes)
    assert not any("more than was asked" in note for note in last(handle).notes)
    assert sum("cache is switched off" in note for note in last(handle).notes) == (settings["budget"] < 1.0)


@pytest.mark.parametrize("has_own_plan", [True, False])
def test_it_is_told_that_the_second_model_of_a_guider_follows_the_first(load_tiny, has_own_plan):
    model = load_tiny()
    fast, handle = accelerated(model, WHOLE, budget=0.5)
    second = accelerated(model, WHOLE, budget=0.3)[0] if has_own_plan else model
    custom = "comfy_extras.nodes_custom_sampler"
    words = {"positive": conditioning(PROMPT), "negative": conditioning("")}
    guider = call(custom, "DualModelGuider", model=fast, model_negative=second, cfg=3.0, **words)
    latent = torch.zeros(RUN["shape"])
    sigmas = comfy.samplers.KSampler(model, 8, "cpu", "euler", "simple", 1.0).sigmas
    sampler = comfy.samplers.sampler_object("euler")
    guider.sample(comfy.sample.prepare_noise(latent, 0), latent, sampler, sigmas, disable_pbar=True, seed=0)
    notes = [note for note in last(handle).notes if "second model" in note]
    assert len(notes) == 1
    assert ("is ignored" in notes[0]) == has_own_plan


def test_step_reports_of_any_number_type_serve(load_tiny, monkeypatch):
    """A sampler that counts in tensors, told other noise levels than its own: steps stay whole numbers."""
    original = comfy.samplers.sampler_object

    def counting_in_tensors(name):
        found = original(name)
        inner = found.sampler_function

        def function(model, x, sigmas, callback=None, **options):
            def told(state):
                callback({**state, "i": torch.tensor(state["i"])})

            return inner(lambda x, sigma, **more: model(x, sigma * 0.99, **more), x, sigmas, callback=told, **options)

        found.sampler_function = function
        return found

    monkeypatch.setattr(comfy.samplers, "sampler_object", counting_in_tensors)
    fast, handle = accelerated(load_tiny(), WHOLE, budget=0.5)
    sample(fast, **RUN)
    assert all(type(call.step) is int for call in last(handle).calls)
    json.dumps(last(handle).as_dict())
