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
F64, BF16 = torch.float64, torch.bfloat16
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def faster() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
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


def error(own: Tensor, exact: Tensor) -> float:
    return ((own.double() - exact.double()).norm() / exact.double().norm()).item()


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


@pytest.mark.parametrize("base", [(2, 1, 8), (1, 1, 8), (2, 5, 8)])
@pytest.mark.parametrize("scale", [(2, 1, 8), (1, 1, 8)])
def test_modulation(quick: Any, base: tuple[int, ...], scale: tuple[int, ...]) -> None:
    parts = random(*base), 2.0 + random(2, 5, 8), 3.0 * random(*scale)
    torch.testing.assert_close(quick.addcmul(unused)(*parts), torch.addcmul(*parts), **CLOSE)


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
    lambda quick: quick.addcmul(told)(random(2, 5, 8), random(2, 5, 8), random(2, 5, 8)),
    lambda quick: quick.addcmul(told)(random(2, 5, 8), random(2, 5, 8), random(2, 1, 8), value=2.0),
    lambda quick: quick.addcmul(told)(random(8), random(8), random(8)),
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


@pytest.fixture
def tiles(faster: ModuleType) -> Any:
    library = faster.compiled() if shutil.which("cc") is not None else None
    if library is None or not faster.has_tiles(library):
        pytest.skip("this CPU has no matrix unit, or there is no C compiler")
    return faster.Tiles(library)


@pytest.mark.parametrize("rows", [1, 16, 31, 32, 100])
@pytest.mark.parametrize(("columns", "depth"), [(32, 32), (64, 128), (96, 512)])
def test_linear_layers_by_tiles(tiles: Any, rows: int, columns: int, depth: int) -> None:
    x, weight, bias = random(rows, depth), torch.nn.Parameter(random(columns, depth)), random(columns)
    exact = x.bfloat16().double() @ weight.bfloat16().double().T + bias.double()
    for _ in range(2):  # from tiles that are packed now, and that were packed before
        torch.testing.assert_close(tiles.linear(unused)(x, weight, bias).double(), exact, rtol=1e-4, atol=1e-4)
    batch = tiles.linear(unused)(x.expand(2, rows, depth), weight, bias)
    assert batch.shape == (2, rows, columns)
    assert torch.equal(batch[0], batch[1])


@pytest.mark.parametrize("rows", [1, 32, 70])
def test_feed_forward_layers_by_tiles(tiles: Any, rows: int) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(64, 160), torch.nn.GELU("tanh"), torch.nn.Linear(160, 64))
    x = torch.cat([random(rows, 64), 40.0 * random(1, 64)]).expand(2, -1, -1)
    own = tiles.sequence(unused)(layers, x)
    assert own.shape == x.shape
    assert error(own, layers(x)) < 0.01
    rounded = layers.to(BF16)(x.bfloat16())
    assert error(own, layers.float()(x)) < error(rounded, layers(x))
    assert torch.equal(own[0], own[1])


@pytest.mark.parametrize("queries", [1, 32, 50])
@pytest.mark.parametrize(("keys", "width"), [(32, 32), (160, 128), (2048, 64)])
def test_attention_by_tiles(tiles: Any, queries: int, keys: int, width: int) -> None:
    q, k, v = (3.0 * random(2, rows, 2, width).transpose(1, 2) for rows in (queries, keys, keys))
    v = v.flip(2) + 1.0
    own = tiles.attention(unused)(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False)
    exact, rounded = (F.scaled_dot_product_attention(*(t.to(kind) for t in (q, k, v))) for kind in (F64, BF16))
    assert own.shape == exact.shape
    assert error(own, exact) < 1.2 * error(rounded, exact) + 1e-3, "as far off as torch's own from the same factors"
    scaled = tiles.attention(unused)(q, k, v, scale=0.05)
    assert error(scaled, F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=0.05)) < 0.01


def test_large_scores_stay_finite(tiles: Any) -> None:
    q, k, v = (1e3 * random(1, 1, 32, 32) for _ in range(3))
    assert torch.isfinite(tiles.attention(unused)(q, k, v)).all()
    assert torch.isfinite(tiles.attention(unused)(-q, k, v)).all()


def sequence(between: torch.nn.Module, inner: int = 64) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(32, inner), between, torch.nn.Linear(inner, 32))


LEFT_TO_OTHERS: list[Callable[[Any], Any]] = [
    lambda tiles: tiles.linear(told)(random(4, 32), random(32, 32), random(32)),
    lambda tiles: tiles.linear(told)(random(4, 32), torch.nn.Parameter(random(32, 32))),
    lambda tiles: tiles.linear(told)(random(4, 24), torch.nn.Parameter(random(32, 24)), random(32)),
    lambda tiles: tiles.linear(told)(random(4, 32).half(), torch.nn.Parameter(random(32, 32)), random(32)),
    lambda tiles: tiles.sequence(told)(sequence(torch.nn.GELU()), random(4, 32)),
    lambda tiles: tiles.sequence(told)(sequence(torch.nn.SiLU()), random(4, 32)),
    lambda tiles: tiles.sequence(told)(sequence(torch.nn.GELU("tanh"), 48), random(4, 32)),
    lambda tiles: tiles.sequence(told)(sequence(torch.nn.GELU("tanh")), random(4, 32).double()),
    lambda tiles: tiles.attention(told)(*random(3, 1, 1, 24, 32)),
    lambda tiles: tiles.attention(told)(*random(3, 1, 1, 32, 32), is_causal=True),
    lambda tiles: tiles.attention(told)(*random(3, 1, 1, 32, 32), attn_mask=torch.ones(32, 32, dtype=torch.bool)),
    lambda tiles: tiles.attention(told)(*random(3, 1, 1, 32, 160)),
    lambda tiles: tiles.attention(told)(*random(3, 1, 1, 32, 64).transpose(-1, -2)),
]


@pytest.mark.parametrize("call", LEFT_TO_OTHERS)
def test_what_tiles_do_not_fit_is_left_to_what_was_there(tiles: Any, call: Callable[[Any], Any]) -> None:
    assert call(tiles) == "torch's own"


def test_rounded_factors_end_with_the_block(faster: ModuleType) -> None:
    q, k, v = random(3, 1, 2, 5, 8)
    shipped, before = F.scaled_dot_product_attention, torch.backends.mkldnn.matmul.fp32_precision
    others = F.linear, torch.nn.Sequential.forward
    exact = shipped(q, k, v)
    with faster.bfloat16_products():
        rounded = F.scaled_dot_product_attention(q, k, v)
    assert rounded.dtype == torch.float32
    assert 0.0 < (rounded - exact).abs().max() < 0.05
    assert F.scaled_dot_product_attention is shipped
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert others == (F.linear, torch.nn.Sequential.forward)


def test_rounded_factors_end_with_an_error(faster: ModuleType) -> None:
    shipped = F.scaled_dot_product_attention
    with pytest.raises(RuntimeError, match="amid"), faster.bfloat16_products():
        raise RuntimeError("amid")
    assert F.scaled_dot_product_attention is shipped
