"""Whatever changes a prediction is in its conditioning's key: tiles, switches, replacements. Nothing is mixed up."""

from __future__ import annotations

import itertools

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from sampling import LONG, WHOLE, accelerated, conditioning, last, psnr, sample

from astraea.host.sampling.cond_groups import cond_groups
from astraea.host.sampling.wrappers import _hosts_full_reason

SHAPE = (1, 16, 3, 8, 16)
RUN = {"shape": SHAPE, "steps": 12, "cfg": 1.0}


def tiled(model, per_level=2):
    """A wrapper that calls the model once for each half of the width, both of one size."""

    def halves(executor, x, t, *args, **kwargs):
        return torch.cat([executor(part, t, *args, **kwargs) for part in x.chunk(per_level, -1)], -1)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "tiles", halves)
    return clone


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "res_multistep"])
def test_tiles_of_one_size_are_not_mixed_up(load_tiny, sampler, cfg):
    dense = tiled(load_tiny())
    options = {**RUN, "sampler": sampler, "cfg": cfg, "negative": conditioning(LONG)}
    expected = sample(dense, **options)
    fast, handle = accelerated(dense, WHOLE, budget=0.5)
    held, _ = accelerated(dense, WHOLE, budget=0.5, mode="hold")
    assert psnr(expected, sample(fast, **options)) > max(20.0, psnr(expected, sample(held, **options)) - 1.0)
    assert last(handle).computed_share == pytest.approx(0.5, abs=0.05)


def asking_again(model, name, values):
    """A node that calls the same conditioning again with an option set, and goes away from what that gives."""

    def again(args):
        import comfy.samplers

        options = args["model_options"].copy()
        options["transformer_options"] = {**options["transformer_options"], name: next(values)}
        (other,) = comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + 0.5 * (args["cond_denoised"] - other)

    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(again)

    def switched(executor, x, t, *args, **kwargs):
        denoised = executor(x, t, *args, **kwargs)
        options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[3]
        return denoised * 0.5 if options.get(name) else denoised

    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "switch", switched)
    return clone


@pytest.mark.parametrize("value", [True, {"layers": [3, 7]}, (1, 2), {5}], ids=["bool", "dict", "tuple", "set"])
def test_the_same_conditioning_with_something_switched_off_is_another_question(load_tiny, value):
    model = load_tiny()
    asking = asking_again(model, "other_pack_switch", itertools.repeat(value))
    fast, handle = accelerated(asking, WHOLE, budget=0.5)
    plain, _ = accelerated(model, WHOLE, budget=0.5)
    options = {**RUN, "cfg": 3.0}
    usual = psnr(sample(model, **options), sample(plain, **options))
    assert psnr(sample(asking, **options), sample(fast, **options)) > usual - 8.0
    assert last(handle).computed_share == pytest.approx(0.5, abs=0.1)


def test_an_option_that_never_repeats_is_told(load_tiny):
    asking = asking_again(load_tiny(), "other_pack_counter", itertools.count(1))
    fast, handle = accelerated(asking, WHOLE, budget=0.5)
    sample(fast, **{**RUN, "cfg": 3.0})
    assert any("other_pack_counter" in note for note in last(handle).notes)
    assert last(handle).computed_share > 0.6


def key_of(**options):
    groups = cond_groups(torch.zeros(SHAPE), {"uuids": ["u"], "cond_or_uncond": [0], **options})
    return groups[0].key


def test_replacements_and_patches_of_every_group_are_in_the_key():
    def one(*args):
        return args

    def other(*args):
        return args

    for group in ("dit", "attn1", "attn2"):
        replaced = {"patches_replace": {group: {("double_block", 3): one}}}
        assert key_of(**replaced) == key_of(**replaced)
        assert key_of(**replaced) != key_of()
        assert key_of(**replaced) != key_of(patches_replace={group: {("double_block", 3): other}})
        assert key_of(**replaced) != key_of(patches_replace={group: {("double_block", 4): one}})
    assert key_of(patches={"attn1_patch": [one]}) != key_of(patches={"attn1_patch": [other]})


def test_plain_values_among_the_options_are_in_the_key():
    """LTX's STG and Modality guiders, and others, switch parts of the model off by them."""
    for value in (False, 3, 0.5, "text", (1, 2), [3, 4], {5, 6}, {"nested": {"layers": [3, 7]}}):
        assert key_of(stg_self_attn_blocks=value) == key_of(stg_self_attn_blocks=value)
        assert key_of(stg_self_attn_blocks=value) != key_of()
        assert key_of(stg_self_attn_blocks=value) != key_of(a2v_cross_attn=value)
    assert key_of(nested={"layers": [3, 7]}) != key_of(nested={"layers": [3, 8]})


def test_what_differs_from_step_to_step_by_itself_is_not_in_the_key():
    passing = [
        {"sigmas": torch.tensor([s]), "sample_sigmas": torch.ones(3), "block_index": i} for i, s in ((1, 0.5), (2, 0.4))
    ]
    assert key_of(**passing[0]) == key_of(**passing[1])
    assert key_of(a_tensor=torch.zeros(2)) == key_of(a_tensor=torch.ones(2))


def test_a_call_runs_in_full_for_what_the_host_did_not_say_of_it():
    options = {"uuids": ["u"], "cond_or_uncond": [0], "sigmas": torch.ones(1)}
    groups = cond_groups(torch.zeros(SHAPE), options)
    assert _hosts_full_reason(groups, options) == ""
    assert "which conditionings" in _hosts_full_reason((), options)
    assert "noise level" in _hosts_full_reason(groups, {**options, "sigmas": None})
    assert "frames are made one after another" in _hosts_full_reason(groups, {**options, "ar_state": object()})
