"""Small clips of a search: their shapes, and cases that have none."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from sampling import PROMPT, conditioning, sample

from astraea.host.search.proxy_clips import make_proxy_clips
from astraea.host.search.runner import PROXY_SAMPLED, ComfyRunner
from astraea.host.search.setting import Case
from astraea.schedules import Schedule
from astraea.search.problem.runner import Job

SHAPE, SMALL = (1, 16, 6, 16, 16), (1, 16, 2, 8, 8)
STEPS, CFG = 6, 3.0
OTHER = "a small green square moving up"


def case(prompt=PROMPT, seed=0, shape=SHAPE, facts=None, **latent):
    positive = [[tensor, {**own, **(facts or {})}] for tensor, own in conditioning(prompt)]
    return Case(positive, conditioning(""), {"samples": torch.zeros(shape), **latent}, seed)


def runner_of(model, *cases):
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    return ComfyRunner(model, cases, sampler=comfy.samplers.sampler_object("euler"), sigmas=sigmas, cfg=CFG)


def test_clips_are_half_as_high_and_wide_a_third_as_long_with_the_prompts_in_turn():
    cases = (case(seed=5), case(OTHER, seed=6))
    clips, share = make_proxy_clips(cases, 5)
    assert share == pytest.approx(1 / 12)
    assert [clip.positive for clip in clips] == [cases[n % 2].positive for n in range(5)]
    assert {tuple(clip.latent["samples"].shape) for clip in clips} == {SMALL}
    assert len({clip.seed for clip in clips} | {5, 6}) == 7
    assert [clip.seed for clip in make_proxy_clips(cases, 3)[0]] == [clip.seed for clip in clips[:3]]


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((1, 16, 21, 60, 104), (1, 16, 7, 30, 52)),
        ((2, 16, 7, 30, 52), (1, 16, 3, 16, 26)),
        ((1, 16, 1, 64, 64), (1, 16, 1, 32, 32)),
    ],
)
def test_sizes_are_in_whole_patches_and_batches_of_one(shape, small):
    clips, share = make_proxy_clips([case(shape=shape)], 1)
    assert tuple(clips[0].latent["samples"].shape) == small
    assert share == pytest.approx(torch.Size(small).numel() / torch.Size(shape).numel())


REFUSED = {
    "a video to begin with": case(samples=torch.ones(SHAPE)),
    "a noise mask": case(noise_mask=torch.ones(1, 1, 6, 16, 16)),
    "an image to begin with": case(facts={"concat_latent_image": torch.ones(SHAPE)}),
    "a reference": case(facts={"reference_latents": [torch.ones(SHAPE)]}),
    "control": case(facts={"control": object()}),
    "an area": case(facts={"area": (1, 8, 8, 0, 0)}),
    "too little of a clip": case(shape=(1, 16, 4, 8, 8)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_tasks_need_large_clips(name):
    assert make_proxy_clips([case(), REFUSED[name]], 4) is None


def test_what_text_encoders_add_is_no_reason():
    facts = {"pooled_output": torch.ones(1, 768), "guidance": 5.0, "control": None}
    assert make_proxy_clips([case(facts=facts)], 4) is not None


def test_the_bench_runs_them_as_the_host_does(load_tiny):
    model = load_tiny()
    runner = runner_of(model, case())
    small = runner.proxy(3)
    assert (small.setting.cases, small.setting.relative_cost) == (3, pytest.approx(1 / 12))
    assert (small.setting.sigmas, small.setting.weights) == (runner.setting.sigmas, runner.setting.weights)
    assert small.dense(1).guided.shape == (STEPS, PROXY_SAMPLED)
    clip = make_proxy_clips([case()], 3)[0][1]
    own = sample(model, steps=STEPS, cfg=CFG, seed=clip.seed, shape=SMALL, sigmas=torch.tensor(runner.setting.sigmas))
    assert torch.equal(small.reference(1).final, model.model.process_latent_in(own))
    budgets = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    schedule = Schedule("tried", tuple(zip(runner.setting.sigmas, budgets, strict=False)))
    outcome = next(small.measure([Job(1, schedule)]))
    assert 0.0 < outcome.loss < 0.1
    assert outcome.computed == 4.0


def test_without_small_clips_the_bench_has_none(load_tiny):
    assert runner_of(load_tiny(), case(noise_mask=torch.ones(1, 1, 6, 16, 16))).proxy(2) is None
