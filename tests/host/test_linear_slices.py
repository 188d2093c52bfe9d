"""Parts of a Linear are those of the whole, wherever the host keeps its weights; other layers are computed whole."""

from __future__ import annotations

from typing import Any

import comfy.ops
import kit
import pytest
import test_adapters
import torch

from astraea.engine.blocks.selection import Selection
from astraea.host.sampling.architectures import architecture_of
from astraea.host.sampling.weights import LinearSlices
from astraea.models.linears import project

SLICES = LinearSlices()
KEYS, QUERIES, REST = slice(8, 24), slice(8), slice(24, None)


def layer(operations: Any = comfy.ops.disable_weight_init, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    linear = operations.Linear(16, 40, **options)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
    return linear.requires_grad_(False)


def patched() -> Any:
    """As low VRAM loads a LoRA: what is added to the weights comes when they are needed."""
    linear = layer()
    linear.weight_function = [lambda weight: weight * 2.0 + 0.1]
    linear.bias_function = [lambda bias: bias - 1.0]
    return linear


PLAIN = {
    "as it is": layer,
    "without bias": lambda: layer(bias=False),
    "cast": lambda: layer(comfy.ops.manual_cast, torch.float16),
    "fp8": lambda: layer(comfy.ops.manual_cast, torch.float8_e4m3fn),
    "patched": patched,
}


@pytest.mark.parametrize("kind", PLAIN)
def test_slices_are_those_of_the_whole(kind):
    linear, x = PLAIN[kind](), torch.randn(2, 12, 16)
    selection = Selection(torch.tensor([[0, 3, 7], [1, 2, 11]]), 12)
    whole = linear(x)
    assert SLICES.possible(linear)
    for slices in (SLICES, None):
        keys, queries, rest = project(slices, linear, x, selection, KEYS, QUERIES, REST)
        assert torch.allclose(keys, whole[..., KEYS], atol=1e-5)
        assert torch.allclose(queries, selection.gather(whole[..., QUERIES]), atol=1e-5)
        assert torch.allclose(rest, selection.gather(whole[..., REST]), atol=1e-5)
    keys, queries = project(SLICES, linear, x, None, KEYS, QUERIES)
    assert torch.equal(queries, whole[..., QUERIES])
    assert torch.equal(keys, whole[..., KEYS])


def test_weights_are_given_back(monkeypatch):
    """Offloaded weights arrive on a stream of their own, which must wait until they are used; also after an error."""
    if not hasattr(comfy.ops, "uncast_bias_weight"):
        pytest.skip("this ComfyUI has nothing to give back")
    given, original = [], comfy.ops.uncast_bias_weight
    monkeypatch.setattr(comfy.ops, "uncast_bias_weight", lambda *args: (given.append(args), original(*args)))
    linear = layer()
    SLICES.compute(linear, [(torch.randn(3, 16), KEYS)])
    with pytest.raises(RuntimeError):
        SLICES.compute(linear, [(torch.randn(3, 17), KEYS)])
    assert [args[0] for args in given] == [linear, linear]


class Quantised(comfy.ops.manual_cast.Linear):
    """As GGUF and the like: a Linear that computes in a way of its own."""


def with_a_hook() -> Any:
    linear = layer()
    linear.register_forward_hook(lambda module, args, output: output * 2.0)
    return linear


def replaced() -> Any:
    linear = layer()
    linear.forward = lambda x: torch.zeros(*x.shape[:-1], 40)
    return linear


OTHERS = {
    "of another class": lambda: layer(type("operations", (), {"Linear": Quantised})),
    "torch's own": lambda: layer(torch.nn),
    "fast fp8": lambda: layer(comfy.ops.fp8_ops),
    "with a hook": with_a_hook,
    "replaced": replaced,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_layers_are_computed_whole(kind):
    linear, x = OTHERS[kind](), torch.randn(2, 12, 16)
    selection = Selection(torch.tensor([[0, 3, 7], [1, 2, 11]]), 12)
    assert not SLICES.possible(linear)
    whole = linear(x)
    keys, queries = project(SLICES, linear, x, selection, KEYS, QUERIES)
    assert torch.equal(keys, whole[..., KEYS])
    assert torch.equal(queries, selection.gather(whole[..., QUERIES]))


# --- in a model whose blocks have fused layers ------------------------------------------------------------------


@pytest.fixture
def whole_layers(monkeypatch):
    monkeypatch.setattr(LinearSlices, "possible", lambda self, linear: False)


def test_blocks_with_whole_layers_are_right_and_cost_more(whole_layers):
    test_adapters.test_selected_tokens_are_computed_as_by_the_whole_block("HunyuanVideo")
    test_adapters.test_work_is_saved_as_the_cost_model_says("HunyuanVideo")


def test_slices_save_work(request):
    sampled = kit.build("HunyuanVideo")
    _, blocks = kit.record_blocks(sampled)
    sliced = architecture_of(sampled.model).cost(blocks[0].layout, None).relative_cost(0.5)
    request.getfixturevalue("whole_layers")
    assert sliced < 0.9 * architecture_of(sampled.model).cost(blocks[0].layout, None).relative_cost(0.5)
