"""The zoo: a small model of every class that ComfyUI samples, which reads its inputs and is the same every time."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.model_base
import comfy.model_management
import pytest
import torch
from torch import Tensor
from zoo import MODELS, NotOnThisHost, Sampled, sample
from zoo.base import empty_tensors_are_nan, fill, tensors

KINDS = ["3d", "audio", "image", "video"]
NOT_SAMPLED = {"RT_DETR_v4", "DepthAnything3", "SAM3"}  # they find things in pictures
PARENTS = {"IP2P"}  # no model of its own


@pytest.fixture(autouse=True)
def _unload() -> Iterator[None]:
    yield
    comfy.model_management.unload_all_models()


@pytest.fixture
def build(host_version):
    """Skips what an older ComfyUI lacks; the newest has all."""

    def build(name: str) -> Sampled:
        try:
            return MODELS[name].build()
        except NotOnThisHost as reason:
            if host_version >= (0, 33):
                raise
            pytest.skip(str(reason))

    return build


def result(sampled: Sampled) -> list[Tensor]:
    return tensors(sample(sampled, steps=3))


@pytest.mark.parametrize("name", MODELS)
def test_model_reads_its_inputs_and_is_the_same_every_time(name, build):
    sampled = build(name)
    assert type(sampled.model.model).__name__ == MODELS[name].base_class
    made = result(sampled)
    assert [each.shape[0] for each in made] == [each.shape[0] for each in tensors(sampled.latent["samples"])]
    for stream in made:
        assert stream.isfinite().all()
        assert stream.std() > 0.1
    exchanged = result(Sampled(sampled.model, sampled.negative, sampled.positive, sampled.latent))
    assert difference(exchanged, made) > 0.01
    assert difference(result(build(name)), made) == 0.0


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest relative difference of their streams."""
    return max(((a - b).std() / b.std()).item() for a, b in zip(one, other, strict=True))


def test_every_class_that_is_sampled_is_in_the_zoo():
    classes = {name for name, each in vars(comfy.model_base).items() if is_model(each)}
    assert classes - NOT_SAMPLED - PARENTS <= {entry.base_class for entry in MODELS.values()}
    assert len({entry.base_class for entry in MODELS.values()}) > 70


def is_model(each: object) -> bool:
    return isinstance(each, type) and issubclass(each, comfy.model_base.BaseModel)


def test_entries_are_sorted_and_of_known_kinds():
    order = [(entry.kind, entry.name) for entry in MODELS.values()]
    assert order == sorted(order)
    assert sorted({kind for kind, _ in order}) == KINDS
    assert all(name == entry.name for name, entry in MODELS.items())


def test_a_computed_buffer_is_kept_and_an_empty_one_filled():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(3, 4))
            self.register_buffer("table", torch.empty(5))
            self.register_buffer("positions", torch.arange(5.0))

    with empty_tensors_are_nan():
        network = Network()
    fill(network)
    assert torch.equal(network.positions, torch.arange(5.0))
    assert network.table.isfinite().all()
    assert network.weight.isfinite().all()
    assert not torch.are_deterministic_algorithms_enabled()
