"""After a run, an interrupt or an error the model is as it was: no attribute, hook, tensor or memory of ours."""

from __future__ import annotations

import gc
import importlib
import random
from collections import Counter

import comfy.model_management
import pytest
import torch
from sampling import TOKENS, WHOLE, accelerated, last, random_wan, sample

from astraea.engine.calls import TokenCall
from astraea.engine.run import Run
from astraea.engine.state.cond_state import CondState
from astraea.engine.state.residual_store import ResidualStore
from astraea.host.sampling.attachment import RUN_KEY
from astraea.models.wan import WanRunner

SCHEDULES = pytest.mark.parametrize("schedule", [TOKENS, WHOLE], ids=["tokens", "whole"])


class InjectedError(RuntimeError):
    pass


def traces(model) -> dict:
    """Everything about a MODEL that a run could have changed."""
    module = model.model.diffusion_model
    return {
        "attributes": {name: sorted(vars(part)) for name, part in module.named_modules()},
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "options": sorted(model.model_options.get("transformer_options", {})),
        "base": sorted(vars(model.model)),
    }


def live_state() -> list:
    gc.collect()
    return [o for o in gc.get_objects() if isinstance(o, (Run, CondState, ResidualStore, TokenCall))]


def tensor_bytes() -> int:
    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor:
            sizes[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(sizes.values())


@SCHEDULES
def test_after_a_run(load_tiny, schedule):
    model = load_tiny()
    sample(model)
    before, fast = traces(model), accelerated(model, schedule, budget=0.5)[0]
    options, level = traces(fast)["options"], tensor_bytes()
    sample(fast)
    assert traces(model) == before
    assert traces(fast)["options"] == options
    assert not live_state()
    assert tensor_bytes() <= level + 4096


@SCHEDULES
def test_after_an_error_in_a_block(load_tiny, schedule, monkeypatch):
    model = load_tiny()
    sample(model)
    before, (fast, handle) = traces(model), accelerated(model, schedule, budget=0.5)
    feed_forward, calls = model.model.diffusion_model.blocks[3].ffn, []

    def fail(module, arguments):
        calls.append(1)
        if len(calls) == 3:
            raise InjectedError

    hook = feed_forward.register_forward_pre_hook(fail)
    with pytest.raises(InjectedError):
        sample(fast)
    hook.remove()
    assert len(calls) == 3
    assert traces(model) == before
    assert not live_state()
    assert not last(handle).finished
    sample(fast)
    assert last(handle).finished


def test_after_an_error_in_our_own_step(load_tiny, monkeypatch):
    model = load_tiny()
    sample(model)
    before, (fast, _) = traces(model), accelerated(model, budget=0.5)

    def fail(*arguments, **options):
        raise InjectedError

    monkeypatch.setattr(WanRunner, "forward_tokens", fail)
    with pytest.raises(InjectedError):
        sample(fast)
    assert traces(model)["attributes"] == before["attributes"]
    assert not live_state()


def test_interrupt_takes_effect_within_one_model_call(load_tiny):
    model = load_tiny()
    sample(model)
    before, (fast, handle) = traces(model), accelerated(model, budget=0.5)
    entered = []

    def interrupt(module, arguments):
        entered.append(1)
        if len(entered) == 4:
            comfy.model_management.interrupt_current_processing()

    hook = model.model.diffusion_model.patch_embedding.register_forward_pre_hook(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(fast)
    hook.remove()
    assert len(entered) == 4, "another model call was made after the interrupt"
    assert traces(model) == before
    assert not live_state()
    assert not last(handle).finished
    assert RUN_KEY not in fast.model_options["transformer_options"]


def test_clones_share_the_plan_and_never_a_run(load_tiny):
    fast, handle = accelerated(load_tiny(), budget=0.5)
    clone = fast.clone().clone()
    assert torch.equal(sample(fast), sample(clone))
    assert len(handle.reports) == 2


def test_second_node_replaces_the_first(load_tiny):
    model = load_tiny()
    once, first_handle = accelerated(model, budget=0.5)
    twice, second_handle = accelerated(once, WHOLE, budget=0.4)
    sample(twice)
    assert not first_handle.reports
    assert last(second_handle).schedule == WHOLE.name
    assert torch.equal(sample(twice), sample(accelerated(model, WHOLE, budget=0.4)[0]))


# Where a run may go wrong: what is replaced, by its module and name. All of it is called in every run or most.
STAGES = {
    "a block": "astraea.models.wan:WanRunner.forward_tokens",
    "the store": "astraea.engine.state.residual_store:ResidualStore.write",
    "the estimate of a reuse step": "astraea.engine.calls.reuse:ReuseCall.estimate",
    "the correction": "astraea.engine.correction:Corrections.after_computed",
    "the probe": "astraea.host.sampling.sampler_probe:_run",
    "the layout of a call": "astraea.host.sampling.wrappers:cond_groups",
    "the end of a call": "astraea.engine.run:Run.end_call",
}


def test_many_runs_interrupts_and_errors_leave_nothing(monkeypatch):
    """50 runs, 100 interrupts and 100 errors, at model calls, the sampler's callback and every stage of our own."""
    model = random_wan(num_layers=2)
    small = {"shape": (1, 16, 2, 8, 8), "steps": 5}
    plain, rng = sample(model, **small), random.Random(0)
    fasts = [accelerated(model, schedule, budget=0.5)[0] for schedule in (TOKENS, WHOLE)]
    fasts += [accelerated(model, TOKENS, budget=0.5, mode="paper")[0]]
    for fast in fasts:
        sample(fast, **small)
    before, level, tensors = traces(model), tensor_bytes(), tensor_count()
    raised = Counter()
    for number in range(250):
        fast, what = fasts[number % 3], ("run", "interrupt", "error", "interrupt", "error")[number % 5]
        with monkeypatch.context() as patched:
            options = dict(small)
            if what == "interrupt":
                options["callback"] = interrupting(
                    rng.randrange(4), comfy.model_management.interrupt_current_processing
                )
            elif rng.random() < 0.3 and what == "error":
                options["callback"] = interrupting(rng.randrange(4), fail_always)
            elif what == "error":
                fail_at(patched, STAGES[rng.choice(list(STAGES))], rng.randrange(1, 6))
            try:
                sample(fast, **options)
            except (InjectedError, comfy.model_management.InterruptProcessingException):
                raised[what] += 1
    assert raised["interrupt"] == 100
    assert raised["error"] > 40, "not every stage is reached in every run, and a probe that fails is no error"
    assert traces(model) == before
    assert not live_state()
    assert tensor_count() <= tensors
    assert tensor_bytes() <= level + 4096
    assert torch.equal(sample(model, **small), plain)


def tensor_count() -> int:
    gc.collect()
    return sum(type(each) is torch.Tensor for each in gc.get_objects())


def fail_always(*arguments, **options):
    raise InjectedError


def interrupting(step, action):
    def callback(at, denoised, x, total):
        if at == step:
            action()

    return callback


def fail_at(patched, place, count):
    """Let the `count`-th call of what is named raise an error."""
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            raise InjectedError
        return original(*arguments, **options)

    patched.setattr(owner, name, failing)
