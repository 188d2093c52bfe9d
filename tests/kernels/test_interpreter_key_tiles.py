"""Attention over listed key tiles by the Triton kernels, interpreted on the CPU: lists, orders of tokens, the rest."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 from the start: python dev.py test --tier kernels", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed: its kernels were not tested")

from triton_problems import CASES, exact, exact_listed, listed, poisoned, problem, relative

from astraea.kernels import Problem, attend_reference
from astraea.kernels.backends.triton_backends import BACKENDS
from astraea.kernels.key_tiles import KEY_TILE, QUERY_TILE, KeyTiles, Rest
from astraea.kernels.selftest import check as selftest
from astraea.kernels.triton_attention import SHIPPED, Config, attend_int8, attend_pointer, config_for, launch

KERNELS = {"pointer": attend_pointer, "int8": attend_int8}
PRECISIONS = {  # kernel, dtype, relative error of the output, absolute error of the log-sum-exp
    "fp16": ("pointer", torch.float16, 1e-3, 2e-3),
    "fp32": ("pointer", torch.float32, 1e-5, 2e-3),
    "int8": ("int8", torch.float16, 0.012, 0.04),  # of few keys the errors do not cancel in the log-sum-exp
}
EACH_PRECISION = pytest.mark.parametrize("precision", PRECISIONS)
RAGGED = (2, 140, 200, 3, 64)  # batch, queries, keys, heads, head size
WIDE = (1, 130, 257, 2, 128)
SPARSE = (1.0, 0.2, 0.6)  # densities of heads
EXTRAS = {"lists": {}, "orders": {"orders": 3}, "rest": {"rest": True}, "orders-rest": {"orders": 3, "rest": True}}


def attend(kernel, q, k, v, lists, *, need_lse=True):
    return KERNELS[kernel](q, k, v, scale=q.shape[-1] ** -0.5, need_lse=need_lse, key_tiles=lists)


def use_config(monkeypatch, config):
    monkeypatch.setattr(launch, "config_for", lambda architecture, kind, head_dim: config)


def check(result, expected, precision):
    _, dtype, tolerance, lse_tolerance = PRECISIONS[precision]
    (out, lse), (expected_out, expected_lse) = result, expected
    assert out.dtype == dtype
    assert out.is_contiguous()
    assert lse.dtype == torch.float32
    assert relative(out, expected_out) <= tolerance
    assert torch.allclose(lse.double(), expected_lse.double(), rtol=0, atol=lse_tolerance)


def permute(tensor, rows):
    """Put rows of `[B, N, H, D]` into the order of each head, `[1 or B, H, N]`."""
    return tensor.take_along_dim(rows.expand(len(tensor), -1, -1).transpose(1, 2).unsqueeze(-1), 1)


# --- lists ------------------------------------------------------------------------------------------------------


@EACH_PRECISION
@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_tiles_listed_are_dense_attention_to_the_bit(monkeypatch, case, precision):
    kernel, dtype, *_ = PRECISIONS[precision]
    use_config(monkeypatch, Config(64, 32, 4, 1))
    q, k, v = problem(case, dtype, "random")
    dense, all_tiles = attend(kernel, q, k, v, None), attend(kernel, q, k, v, listed(case, (1.0,)))
    assert torch.equal(dense[0], all_tiles[0])
    assert torch.equal(dense[1], all_tiles[1])


@EACH_PRECISION
@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("case", [RAGGED, WIDE], ids=str)
def test_agrees_with_double_precision(case, extras, precision):
    kernel, dtype, *_ = PRECISIONS[precision]
    lists = listed(case, SPARSE, **EXTRAS[extras])
    # Keys with a common offset: int8 subtracts it, and the rest's score must follow.
    q, k, v = problem(case, dtype, "offset" if kernel == "int8" else "random")
    check(attend(kernel, q, k, v, lists), exact_listed(q, k, v, lists), precision)


@pytest.mark.parametrize("config", [Config(128, 64, 4, 1), Config(128, 16, 4, 1)], ids=["128x64", "128x16"])
@pytest.mark.parametrize("keys", [256, 300, 257], ids=["whole", "ragged", "one-key-in-the-last"])
@EACH_PRECISION
def test_lists_of_any_length_in_blocks_of_any_size(monkeypatch, precision, keys, config):
    kernel, dtype, *_ = PRECISIONS[precision]
    use_config(monkeypatch, config)
    q, k, v = problem((2, 140, keys, 2, 64), dtype, "random")
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(2, 2, 2, -(-keys // 64), generator=generator) < 0.5
    mask[0, 0, 0] = False  # nothing
    mask[0, 1, 0] = True  # everything
    mask[1, 0, 0] = torch.arange(mask.shape[-1]) == mask.shape[-1] - 1  # only the last tile
    mask[1, 1, 1, -1] = False  # all but the last tile
    lists = KeyTiles.from_mask(mask)
    result = attend(kernel, q, k, v, lists)
    check(result, exact_listed(q, k, v, lists), precision)
    assert not result[0][0, :128, 0].any()
    assert (result[1][0, 0, :128] == -math.inf).all()


@EACH_PRECISION
def test_entries_after_the_listed_tiles_are_ignored(precision):
    kernel, dtype, *_ = PRECISIONS[precision]
    q, k, v = problem((1, 40, 100, 1, 64), dtype, "random")
    lists = KeyTiles(torch.tensor([[[1]]], dtype=torch.int32), torch.tensor([[[[1, 1 << 30]]]], dtype=torch.int32))
    check(attend(kernel, q, k, v, lists), exact(q, k[:, 64:], v[:, 64:]), precision)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("length", [0, 2])
@pytest.mark.parametrize("rest", [False, True], ids=["alone", "rest"])
def test_an_empty_list_gives_zeros(kernel, length, rest):
    q, k, v = problem((1, 40, 100, 1, 64), torch.float16, "random")
    lists = KeyTiles(torch.zeros(1, 1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, length, dtype=torch.int32))
    if rest:  # no term: its value does not count
        lists = replace(lists, rest=Rest(torch.full((1, 1, 1), -math.inf), torch.full((1, 1, 1, 64), math.nan)))
    out, lse = attend(kernel, q, k, v, lists)
    assert torch.equal(out, torch.zeros_like(out))
    assert (lse == -math.inf).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("extras", ["lists", "orders-rest"])
def test_the_same_inputs_give_the_same_bits_with_and_without_lse(kernel, extras):
    q, k, v = problem(RAGGED, torch.float16, "random")
    lists = listed(RAGGED, SPARSE, **EXTRAS[extras])
    out, lse = attend(kernel, q, k, v, lists)
    again, lse_again = attend(kernel, q, k, v, lists)
    without, none = attend(kernel, q, k, v, lists, need_lse=False)
    assert torch.equal(out, again)
    assert torch.equal(lse, lse_again)
    assert torch.equal(out, without)
    assert none is None


# --- orders of tokens -------------------------------------------------------------------------------------------


@EACH_PRECISION
@pytest.mark.parametrize("rest", [False, True], ids=["lists", "rest"])
@pytest.mark.parametrize("one_for_all", [False, True], ids=["batches-differ", "one-for-all"])
def test_orders_equal_permuting_outside(precision, rest, one_for_all):
    kernel, dtype, *_ = PRECISIONS[precision]
    q, k, v = problem(RAGGED, dtype, "random")
    lists = listed(RAGGED, SPARSE, orders=3, rest=rest)
    if one_for_all:
        lists = replace(lists, orders=replace(lists.orders, queries=lists.orders.queries[:1]))
    rows, columns = lists.orders.queries_of_heads(), lists.orders.keys_of_heads()[None]
    out, lse = attend(kernel, q, k, v, lists)
    in_places = (permute(q, rows), permute(k, columns), permute(v, columns))
    outside, outside_lse = attend(kernel, *in_places, replace(lists, orders=None))
    out, lse = permute(out, rows), lse.take_along_dim(rows, 2)
    if kernel == "int8":  # the mean of the keys is summed in another order: a code may be another
        assert relative(out, outside.double()) <= 2e-3
        assert torch.allclose(lse, outside_lse, rtol=0, atol=2e-3)
    else:
        assert torch.equal(out, outside)
        assert torch.equal(lse, outside_lse)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_order_of_the_rows_changes_nothing(kernel):
    q, k, v = problem(RAGGED, torch.float16, "random")
    lists = listed(RAGGED, SPARSE, orders=1, rest=True)
    ordered, plain = (attend(kernel, q, k, v, each) for each in (lists, replace(lists, orders=None)))
    assert torch.equal(ordered[0], plain[0])
    assert torch.equal(ordered[1], plain[1])


# --- the rest ---------------------------------------------------------------------------------------------------


@EACH_PRECISION
@pytest.mark.parametrize("orders", [0, 3])
def test_the_rest_equals_a_merge_outside(precision, orders):
    kernel, dtype, *_ = PRECISIONS[precision]
    q, k, v = problem(RAGGED, dtype, "offset")
    lists = listed(RAGGED, SPARSE, orders=orders, rest=True)
    lists.rest.top[0, 1] = -math.inf  # no term in this head
    lists.rest.top[1, 2] = 60.0  # little else counts
    check(attend(kernel, q, k, v, lists), attend_reference(q, k, v, key_tiles=lists), precision)


@EACH_PRECISION
def test_the_rest_of_an_empty_list_is_all(precision):
    kernel, dtype, *_ = PRECISIONS[precision]
    q, k, v = problem((1, 40, 100, 1, 64), dtype, "offset")
    value = torch.randn(1, 1, 1, 64, generator=torch.Generator().manual_seed(2))
    empty = KeyTiles(torch.zeros(1, 1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, 0, dtype=torch.int32))
    out, lse = attend(kernel, q, k, v, replace(empty, rest=Rest(torch.full((1, 1, 1), 3.0), value)))
    assert torch.equal(out, value.to(dtype).transpose(1, 2).expand_as(out).reshape(out.shape))
    assert torch.allclose(lse, torch.full_like(lse, 3.0), rtol=0, atol=1e-5)


def test_large_values_and_their_rest_stay_in_the_range_of_fp16():
    q, k, v = problem(RAGGED, torch.float16, "random")
    v[:, :, 1, 5] = 60000.0  # int8 divides this channel
    lists = listed(RAGGED, SPARSE, orders=3, rest=True)
    lists.rest.value[:, 1, :, 5] = 50000.0
    out, _ = attend("int8", q, k, v, lists)
    expected, _ = exact_listed(q, k, v, lists)
    for channel in (5, 6):
        assert relative(out[:, :, 1, channel], expected[:, :, 1, channel]) <= 0.02


# --- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extras", ["lists", "orders-rest"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_memory_around_the_tensors_does_not_leak(kernel, case, extras):
    tensors = problem(case, torch.float16, "random")
    lists = listed(case, (1.0, 0.5), **EXTRAS[extras])
    expected, expected_lse = attend(kernel, *tensors, lists)
    out, lse = attend(kernel, *map(poisoned, tensors), lists)
    assert torch.equal(out, expected)
    assert torch.equal(lse, expected_lse)


@pytest.mark.parametrize("kernel", KERNELS)
def test_lists_of_any_strides_work(kernel):
    q, k, v = problem(RAGGED, torch.float16, "random")
    lists = listed(RAGGED, SPARSE, orders=3, rest=True)
    expected, _ = attend(kernel, q, k, v, lists)
    orders = replace(lists.orders, keys=lists.orders.keys.T.contiguous().T)
    rest = replace(lists.rest, value=lists.rest.value.transpose(1, 3).contiguous().transpose(1, 3))
    tiles = torch.nn.functional.pad(lists.tiles, (2, 3))[..., 2:-3]
    out, _ = attend(kernel, q, k, v, replace(lists, tiles=tiles, orders=orders, rest=rest))
    assert torch.equal(out, expected)


# --- refusals and configurations --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_lists_for_other_tensors_are_refused(kernel):
    q, k, v = problem(RAGGED, torch.float16, "random")
    lists = listed(RAGGED, SPARSE, orders=3, rest=True)
    for wrong, what in [
        (replace(lists, key_tile=32), "tiles of 128 queries and 64 keys, not 128 queries and 32 keys"),
        (replace(lists, query_tile=64), "not 64 queries"),
        (replace(lists, counts=lists.counts[:, :1]), "counts"),
        (replace(lists, tiles=lists.tiles[:1]), "tiles"),
        (replace(lists, orders=replace(lists.orders, keys=lists.orders.keys[:, 1:])), "orders of keys"),
        (replace(lists, orders=replace(lists.orders, queries=lists.orders.queries[:, :1])), "orders of queries"),
        (replace(lists, orders=replace(lists.orders, of_head=lists.orders.of_head[:1])), "orders of heads"),
        (replace(lists, rest=replace(lists.rest, top=lists.rest.top[:1])), "scores of the rest"),
        (replace(lists, rest=replace(lists.rest, value=lists.rest.value[..., :1])), "values of the rest"),
    ]:
        with pytest.raises(ValueError, match=what):
            attend(kernel, q, k, v, wrong)


def test_the_backends_pass_lists_on():
    q, k, v = problem(RAGGED, torch.float16, "random")
    lists = listed(RAGGED, SPARSE, orders=3, rest=True)
    known = Problem.of(q, k, v, need_lse=True, key_tiles=True)
    expected = exact_listed(q, k, v, lists)
    by_name = {backend.name: backend for backend in BACKENDS}
    assert by_name["triton-tma"].unsupported_reason(known) == "takes no key tiles"
    for name, precision in (("triton", "fp16"), ("triton-int8", "int8")):
        backend = by_name[name]
        assert backend.unsupported_reason(known) == ""
        assert backend.unsupported_reason(replace(known, usual_tiles=False))
        check(backend(q, k, v, scale=0.125, need_lse=True, key_tiles=lists), expected, precision)
        assert selftest(backend, known).reason == ""


def test_shipped_configurations_divide_tiles():
    kinds = ("tiles", "int8_tiles")
    interpreted = [("interpreter", kind, head_dim) for kind in kinds for head_dim in (64, 128)]
    for architecture, kind, head_dim in [*SHIPPED, *interpreted]:
        if kind in kinds:
            config = config_for(architecture, kind, head_dim)
            assert QUERY_TILE % config.block_m == KEY_TILE % config.block_n == 0
    assert {of for of in SHIPPED if of[1] == "int8"} == {(a, "int8", d) for a, k, d in SHIPPED if k == "int8_tiles"}
