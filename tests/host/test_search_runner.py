"""The runner of a search's candidates: recordings, outcomes, and what it refuses."""

from __future__ import annotations

import gc
import json
import math
import weakref
from pathlib import Path
from unittest.mock import Mock

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustom
from sampling import LONG, PROMPT, WHOLE, accelerated, conditioning, sample

from astraea.engine.run import Run
from astraea.engine.state.cond_state import CondState
from astraea.errors import SearchError
from astraea.host.sampling.patch_model import accelerate
from astraea.host.search import runner as runner_module
from astraea.host.search.runner import ComfyRunner
from astraea.host.search.setting import Case
from astraea.schedules import Schedule
from astraea.search.problem.runner import MAX_SAMPLED, Job

pytestmark = pytest.mark.newest_host

SHAPE = (1, 16, 4, 8, 8)
STEPS, CFG = 8, 3.0
OTHER = "a small green square moving up"


def levels(model, steps=STEPS):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)


def case(prompt=PROMPT, seed=0, negative="", **latent):
    return Case(conditioning(prompt), conditioning(negative), {"samples": torch.zeros(SHAPE), **latent}, seed)


def runner_of(model, *cases, sampler="euler", sigmas=None, cfg=CFG, **options):
    sigmas = levels(model) if sigmas is None else sigmas
    sampler = comfy.samplers.sampler_object(sampler)
    return ComfyRunner(model, cases or (case(),), sampler=sampler, sigmas=sigmas, cfg=cfg, **options)


def schedule_of(runner, budgets, **options):
    return Schedule("tried", tuple(zip(runner.setting.sigmas, budgets, strict=False)), **options)


def measured(runner, budgets, index=0, **options):
    return next(runner.measure([Job(index, schedule_of(runner, budgets), **options)]))


REUSING = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
TOKENS = [1.0, 1.0, 0.5, 0.5, 1.0, 0.5, 0.5, 1.0]


def model_space(model, samples):
    return model.model.process_latent_in(samples)


@pytest.mark.parametrize("sampler", ["euler", "res_multistep", "uni_pc"])
@pytest.mark.parametrize("negative", ["", LONG], ids=["one call a step", "two calls a step"])
def test_a_dense_run_is_the_hosts_own(load_tiny, sampler, negative):
    model = load_tiny()
    runner = runner_of(model, case(negative=negative), sampler=sampler)
    recording = runner.dense(0)
    # KSampler alters the levels for some samplers, so they are given.
    own = sample(model, steps=STEPS, cfg=CFG, sampler=sampler, negative=conditioning(negative), sigmas=levels(model))
    final = model_space(model, own)
    values = final.numel()
    assert recording.latents.shape == (STEPS, values)
    assert recording.predictions.shape == (STEPS, 2, values)
    assert torch.equal(recording.final, final.flatten())
    assert recording.peak == float(final.max() - final.min())
    assert len(recording.seconds) == STEPS
    assert min(recording.seconds) > 0.0
    guided = CFG * recording.predictions[:, 0] + (1.0 - CFG) * recording.predictions[:, 1]
    torch.testing.assert_close(guided, recording.guided, rtol=1e-4, atol=1e-4)
    assert runner.dense(0) is recording


def test_guided_predictions_make_up_the_latents(load_tiny):
    """Weights and starts replay a run: Euler's are those of its formula, a multistep solver's are as good."""
    model = load_tiny()
    for sampler in ("euler", "dpmpp_2m"):
        runner = runner_of(model, sampler=sampler)
        recording, setting = runner.dense(0), runner.setting
        replayed = torch.tensor(setting.weights) @ recording.guided
        replayed += torch.tensor(setting.starts)[1:, None] * recording.latents[0] / setting.starts[0]
        expected = torch.cat([recording.latents[1:], recording.final[None]])
        torch.testing.assert_close(replayed, expected, rtol=1e-3, atol=1e-3)


def test_eulers_weights(load_tiny):
    setting = runner_of(load_tiny()).setting
    expected = torch.zeros(STEPS, STEPS, dtype=torch.float64)
    now = torch.zeros(STEPS, dtype=torch.float64)
    for k in range(STEPS):
        kept = setting.sigmas[k + 1] / setting.sigmas[k]
        now = kept * now
        now[k] += 1.0 - kept
        expected[k] = now
    torch.testing.assert_close(torch.tensor(setting.weights, dtype=torch.float64), expected, rtol=1e-4, atol=1e-5)
    assert setting.calls_per_step == (1,) * STEPS


def test_samplers_of_several_evaluations_cannot_be_replayed(load_tiny):
    runner = runner_of(load_tiny(), sampler="heun")
    assert runner.setting.weights is None
    assert runner.setting.starts is None
    assert max(runner.setting.calls_per_step) == 2
    outcome = measured(runner, [1.0] * STEPS)
    assert outcome.loss == 0.0
    assert outcome.computed == sum(runner.setting.calls_per_step)
    assert math.isfinite(measured(runner, REUSING).loss)


def test_everything_computed_is_no_loss(load_tiny):
    outcome = measured(runner_of(load_tiny()), [1.0] * STEPS)
    assert outcome.loss == 0.0
    assert outcome.losses == (0.0,) * STEPS
    assert outcome.computed == STEPS
    assert outcome.kinds == ("full",) * STEPS
    assert outcome.responses == (None,) * STEPS


@pytest.mark.parametrize("budgets", [REUSING, TOKENS], ids=["reuse", "tokens"])
def test_a_loss_is_that_of_the_accelerated_model(load_tiny, budgets):
    model = load_tiny()
    runner = runner_of(model)
    outcome = measured(runner, budgets)
    fast = sample(accelerated(model, schedule_of(runner, budgets))[0], steps=STEPS, cfg=CFG)
    dense = model_space(model, sample(model, steps=STEPS, cfg=CFG))
    error = (model_space(model, fast) - dense).square().mean() / (dense.max() - dense.min()) ** 2
    assert outcome.loss == pytest.approx(float(error), rel=1e-4)
    assert outcome.steps == STEPS
    assert outcome.computed == pytest.approx(sum(budgets), abs=0.1)
    assert outcome.kinds == tuple({0.0: "reuse", 0.5: "token", 1.0: "full"}[b] for b in budgets)
    assert torch.equal(runner.latest, fast)


def test_responses_are_known_where_something_was_off_and_computed(load_tiny):
    outcome = measured(runner_of(load_tiny()), REUSING)
    known = [response is not None for response in outcome.responses]
    assert known == [False, False, False, True, False, False, True, True]
    assert all(response > 0.0 for response in outcome.responses if response is not None)


@pytest.mark.parametrize("negative", ["", LONG], ids=["one call a step", "two calls a step"])
def test_what_is_computed_does_not_depend_on_how_calls_are_cut(load_tiny, negative):
    outcome = measured(runner_of(load_tiny(), case(negative=negative)), REUSING)
    assert outcome.computed == 5.0


def test_a_hopeless_run_is_given_up_and_leaves_nothing(load_tiny):
    model = load_tiny()
    runner = runner_of(model)
    runner.dense(0)
    limits = (math.inf, math.inf, 0.0) + (math.inf,) * (STEPS - 3)
    outcome = measured(runner, REUSING, limits=limits)
    assert outcome.loss == math.inf
    assert outcome.steps == len(outcome.losses) == len(outcome.kinds) == len(outcome.seconds) == 3
    assert outcome.computed == 2.0
    assert runner.latest is None
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) in (Run, CondState)]
    assert measured(runner, [1.0] * STEPS).loss == 0.0


def test_limits_that_are_kept_change_nothing(load_tiny):
    runner = runner_of(load_tiny())
    free = measured(runner, REUSING)
    kept = measured(runner, REUSING, limits=free.losses)
    assert (kept.loss, kept.losses) == (free.loss, free.losses)


def test_an_interrupt_ends_the_search_and_keeps_nothing(load_tiny):
    model, steps = load_tiny(), []

    def interrupt():
        steps.append(1)
        if len(steps) == 3:
            comfy.model_management.interrupt_current_processing()

    runner = runner_of(model, on_step=interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        runner.dense(0)
    assert len(steps) == 3
    assert runner.dense(0).guided.shape[0] == STEPS
    assert len(steps) == 3 + STEPS


def test_long_recordings_keep_the_same_few_values_of_each_run(load_tiny):
    model, shape = load_tiny(), (1, 16, 4, 16, 16)
    large = case(samples=torch.zeros(shape))
    runner = runner_of(model, large)
    recording = runner.dense(0)
    assert recording.guided.shape == (STEPS, MAX_SAMPLED)
    outcome = measured(runner, [1.0] * STEPS)
    assert outcome.losses == (0.0,) * STEPS
    assert torch.equal(recording.final, runner_of(model, large).dense(0).final)


def test_cases_are_run_each_on_its_own(load_tiny):
    runner = runner_of(load_tiny(), case(), case(OTHER, seed=7))
    jobs = [Job(index, schedule_of(runner, budgets)) for budgets in ([1.0] * STEPS, REUSING) for index in (0, 1)]
    losses = [outcome.loss for outcome in runner.measure(jobs)]
    assert losses[:2] == [0.0, 0.0]
    assert losses[2] != losses[3]
    assert runner.setting.cases == 2
    assert runner.setting.facts["seeds"] == [0, 7]


def test_an_accelerated_model_is_measured_from_the_dense_one(load_tiny):
    model = load_tiny()
    plain, again = runner_of(model), runner_of(accelerated(model, WHOLE)[0])
    assert plain.setting == again.setting
    assert torch.equal(plain.dense(0).guided, again.dense(0).guided)


def test_masks_and_batch_indices_of_the_latent_count(load_tiny):
    model = load_tiny()
    mask = torch.zeros(1, 4, 8, 8)
    mask[..., :4] = 1.0
    latent = {"samples": torch.ones(2, *SHAPE[1:]), "noise_mask": mask, "batch_index": [3, 1]}
    runner = runner_of(model, Case(conditioning(PROMPT), conditioning(""), latent, 0))
    assert measured(runner, [1.0] * STEPS).loss == 0.0
    sampler = comfy.samplers.sampler_object("euler")
    arguments = (model, True, 0, CFG, conditioning(PROMPT), conditioning(""), sampler, levels(model), latent)
    node = SamplerCustom()
    output = (node.sample if hasattr(node, "sample") else node.execute)(*arguments)
    recording = runner.dense(0)
    guided = CFG * recording.predictions[:, 0] + (1.0 - CFG) * recording.predictions[:, 1]
    torch.testing.assert_close(guided, recording.guided, rtol=1e-4, atol=1e-4)  # so nothing was masked there
    assert recording.final.numel() == 2 * SHAPE[1] * 4 * 8 * 4
    assert torch.equal(runner.latest, next(iter(getattr(output, "args", output)))["samples"])


@pytest.mark.parametrize("planned", [False, True], ids=["plain", "with a plan"])
def test_candidates_are_clones_of_the_users_model_and_go_with_their_run(load_tiny, monkeypatch, planned):
    model = accelerated(load_tiny(), WHOLE)[0] if planned else load_tiny()
    candidates, interrupt = [], Mock()

    def noted(*arguments):
        candidate = accelerate(*arguments)
        assert candidate.parent is model  # the host follows it to the weights when a candidate is freed
        candidates.append(weakref.ref(candidate))
        return candidate

    monkeypatch.setattr(runner_module, "accelerate", noted)
    large = Case(conditioning(PROMPT), conditioning(""), {"samples": torch.zeros(1, 16, 6, 16, 16)}, 0)
    small = runner_of(model, large, on_step=interrupt).proxy(1)
    measured(small, REUSING)
    interrupt.side_effect = comfy.model_management.InterruptProcessingException
    gc.disable()  # what is kept in circles would be freed at some time by it
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            measured(small, REUSING)
        assert [candidate() for candidate in candidates] == [None] * 3
    finally:
        gc.enable()


def identity(model, *cases, **options):
    return runner_of(model, *cases, **options).setting.identity


def test_identities_tell_apart_what_gives_other_results(load_tiny):
    model = load_tiny()
    first = identity(model)
    runner_of(model).dense(0)
    assert first == identity(model) == identity(load_tiny())
    assert len(first) == 32
    others = [
        identity(model, case(OTHER)),
        identity(model, case(seed=1)),
        identity(model, case(), case(seed=1)),
        identity(model, case(noise_mask=torch.ones(1, 4, 8, 8))),
        identity(model, cfg=4.0),
        identity(model, sampler="res_multistep"),
        identity(model, sigmas=levels(model, 6)),
        identity(load_tiny(torch.bfloat16)),
    ]
    assert len({first, *others}) == len(others) + 1


def test_facts_are_plain(load_tiny):
    facts = runner_of(load_tiny()).setting.facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["sampling"]["sampler"] == "euler"
    assert facts["sampling"]["latent"] == list(SHAPE)
    assert facts["model"]["class"] == "WanModel"
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert f'version = "{facts["versions"]["astraea"]}"' in project.read_text("utf-8")
    assert "unknown" not in facts["versions"].values()


def test_what_cannot_be_searched_is_refused(load_tiny):
    model = load_tiny()
    flat = Case(conditioning(PROMPT), conditioning(""), {"samples": torch.ones(1, 4, 3, 8, 8)}, 0)
    with pytest.raises(SearchError, match="no steps to save"):
        runner_of(model, sigmas=levels(model, 1))
    with pytest.raises(SearchError, match="negative conditioning is empty"):
        runner_of(model, Case(conditioning(PROMPT), [], {"samples": torch.zeros(SHAPE)}, 0))
    with pytest.raises(SearchError, match="for another model"):
        runner_of(model, flat)
    with pytest.raises(SearchError, match="no video"):
        runner_of(model, Case(conditioning(PROMPT), conditioning(""), {"samples": torch.ones(4, 8)}, 0))
    with pytest.raises(SearchError, match="do not decrease"):
        runner_of(model, sigmas=torch.tensor([0.5, 0.7, 0.0]))
    half = conditioning(PROMPT, area=(4, 4, 8, 0, 0, 0), strength=1.0)
    runner = runner_of(model, Case(half, conditioning(""), {"samples": torch.zeros(SHAPE)}, 0))
    with pytest.raises(SearchError, match="part of the latents"):
        runner.dense(0)


def test_models_that_cannot_be_accelerated_are_refused(load_tiny):
    model = load_tiny()
    model.model.diffusion_model.init_kv_caches = lambda: None
    with pytest.raises(SearchError, match="This model cannot be accelerated: "):
        runner_of(model)
