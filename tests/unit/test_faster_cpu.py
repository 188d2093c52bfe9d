"""The faster arithmetic of long benchmark searches comes to what torch's own does."""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("faster_cpu")
    sys.modules.pop("faster_cpu")


@pytest.fixture
def quick(faster: ModuleType) -> Any:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return faster.Quick(faster.compiled())


def unused(*args: Any, **options: Any) -> Tensor:
    raise AssertionError("torch's own was called")


def told(*args: Any, **options: Any) -> str:
    return "torch's own"


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_gelu(quick: Any) -> None:
    x = torch.cat([30.0 * random(3, 50), torch.tensor([[0.0, -1e4, 1e4, -90.0, 90.0] * 10])])
    assert torch.isfinite(quick.gelu(unused)(x, approximate="tanh")).all()
    torch.testing.assert_close(quick.gelu(unused)(x, approximate="tanh"), F.gelu(x, approximate="tanh"), **CLOSE)


@pytest.mark.parametrize("width", [7, 128])
def test_norms(quick: Any, width: int) -> None:
    x, weight, bias = 3.0 + random(2, 5, width), random(width), random(2, width)[1]
    rms, layer = quick.rms_norm(unused), quick.layer_norm(unused)
    torch.testing.assert_close(rms(x, (width,), weight, 1e-6), F.rms_norm(x, (width,), weight, 1e-6), **CLOSE)
    torch.testing.assert_close(layer(x, (width,), eps=1e-6), F.layer_norm(x, (width,), eps=1e-6), **CLOSE)
    torch.testing.assert_close(layer(x, (width,), weight, bias), F.layer_norm(x, (width,), weight, bias), **CLOSE)


@pytest.mark.parametrize("batch", [1, 2])
def test_rotate(quick: Any, batch: int) -> None:
    x, freqs = random(2, 5, 3, 8), random(batch, 5, 1, 4, 2, 2)
    pairs = x.unflatten(-1, (-1, 1, 2))
    torch.testing.assert_close(quick.rotate(unused)(x, freqs), (freqs * pairs).sum(-1).flatten(-2), **CLOSE)


def test_what_is_not_contiguous_counts_as_what_it_is(quick: Any) -> None:
    x = random(8, 4, 6).transpose(0, 2)
    torch.testing.assert_close(quick.layer_norm(unused)(x, (8,)), F.layer_norm(x, (8,)), **CLOSE)
    torch.testing.assert_close(quick.gelu(unused)(x, "tanh"), F.gelu(x, approximate="tanh"), **CLOSE)


OTHERS: list[Callable[[Any], Any]] = [
    lambda quick: quick.gelu(told)(random(4)),
    lambda quick: quick.gelu(told)(random(4).double(), approximate="tanh"),
    lambda quick: quick.rms_norm(told)(random(2, 4), (4,)),
    lambda quick: quick.rms_norm(told)(random(2, 4), (4,), random(4)),
    lambda quick: quick.layer_norm(told)(random(2, 4), (2, 4)),
    lambda quick: quick.layer_norm(told)(random(2, 4), (4,), random(4)),
    lambda quick: quick.rotate(told)(random(2, 5, 3, 8), random(5, 1, 4, 2, 2)),
    lambda quick: quick.rotate(told)(random(3, 5, 3, 8), random(2, 5, 1, 4, 2, 2)),
    lambda quick: quick.rotate(told)(random(2, 5, 3, 8).half(), random(2, 5, 1, 4, 2, 2)),
]


@pytest.mark.parametrize("call", OTHERS)
def test_the_rest_is_left_to_torch(quick: Any, call: Callable[[Any], Any]) -> None:
    assert call(quick) == "torch's own"


def test_linear_layers(faster: ModuleType) -> None:
    x, weight, bias = random(3, 64, 24), random(16, 24), random(16)
    linear = faster.by_onednn(unused)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-4, atol=1e-4)
    assert faster.by_onednn(told)(random(8, 24), weight) == "torch's own", "too few rows to gain"


def test_rounded_factors_end_with_the_block(faster: ModuleType) -> None:
    q, k, v = random(3, 1, 2, 5, 8)
    shipped, before = F.scaled_dot_product_attention, torch.backends.mkldnn.matmul.fp32_precision
    exact = shipped(q, k, v)
    with faster.bfloat16_products():
        rounded = F.scaled_dot_product_attention(q, k, v)
    assert rounded.dtype == torch.float32
    assert 0.0 < (rounded - exact).abs().max() < 0.05
    assert F.scaled_dot_product_attention is shipped
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_rounded_factors_end_with_an_error(faster: ModuleType) -> None:
    shipped = F.scaled_dot_product_attention
    with pytest.raises(RuntimeError, match="amid"), faster.bfloat16_products():
        raise RuntimeError("amid")
    assert F.scaled_dot_product_attention is shipped
