"""The digest of a MODEL: the same for the same model, another for other weights or patches."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.utils
import pytest
import torch
from sampling import random_wan, sample

from astraea.host.search.fingerprint import digest_of, model_fingerprint


def test_fingerprints_of_models(load_tiny):
    model = load_tiny()
    before = model_fingerprint(model)
    patched = model.clone()
    name = "diffusion_model.blocks.0.ffn.0.weight"
    shape = model.model.diffusion_model.blocks[0].ffn[0].weight.shape
    patched.add_patches({name: ("diff", (torch.ones(shape),))}, 0.5)
    stronger = model.clone()
    stronger.add_patches({name: ("diff", (torch.ones(shape),))}, 0.6)
    found = {before, model_fingerprint(patched), model_fingerprint(stronger), model_fingerprint(random_wan())}
    assert len(found) == 4
    sample(patched, steps=2)
    assert model_fingerprint(model) == before
    assert model_fingerprint(patched) in found - {before}


def test_fingerprint_of_a_model_whose_weights_have_another_type_while_it_is_loaded():
    model = random_wan()
    before = model_fingerprint(model)
    for name, weight in list(model.model.named_parameters()):
        model.backup[name] = SimpleNamespace(weight=weight, inplace_update=False)
        comfy.utils.set_attr_param(model.model, name, weight.bfloat16())
    assert model_fingerprint(model) == before


def test_digests_tell_values_types_and_order_apart():
    values = [1, 1.0, True, "1", None, [1, 2], [2, 1], [[1], 2], {"a": 1}, {"b": 1}, torch.ones(2), torch.ones(2, 1)]
    values += [torch.ones(2, dtype=torch.bfloat16), torch.zeros(2), torch.tensor(1.0), torch.float32]
    assert len({digest_of(value) for value in values}) == len(values)


@pytest.mark.parametrize("left_behind", [{"a": 1, "b": {}}, {"b": [], "a": 1}])
def test_digests_pass_over_what_says_nothing(left_behind):
    assert digest_of(left_behind) == digest_of({"a": 1})


def test_digests_see_into_functions_and_objects():
    def scaled(by):
        return lambda x: x * by

    class Settings:
        def __init__(self, strength):
            self.strength, self.inner = strength, object()

        def apply(self, x):
            return x * self.strength

    def default(by):
        def scaled(x, y=by, *, z=0):
            return x * y + z

        return scaled

    def keyword(by):
        def scaled(x, *, y=by):
            return x * y

        return scaled

    class Schedule:
        def __init__(self, strengths):
            self.strengths, self._cache = strengths, [torch.rand(2)]

    assert digest_of(scaled(1.0)) == digest_of(scaled(1.0)) != digest_of(scaled(2.0))
    assert digest_of(Settings(1.0)) == digest_of(Settings(1.0)) != digest_of(Settings(2.0))
    assert digest_of(Settings(1.0).apply) == digest_of(Settings(1.0).apply) != digest_of(Settings(2.0).apply)
    assert digest_of(default(1.0)) == digest_of(default(1.0)) != digest_of(default(2.0))
    assert digest_of(keyword(1.0)) == digest_of(keyword(1.0)) != digest_of(keyword(2.0))
    assert digest_of(Schedule([1.0, 2.0])) == digest_of(Schedule([1.0, 2.0])) != digest_of(Schedule([1.0, 3.0]))
    assert digest_of(Schedule({"a": 1.0})) != digest_of(Schedule({"a": 2.0}))
    endless = Schedule([])
    endless.strengths.append(endless.strengths)
    assert digest_of(endless) == digest_of(endless)
