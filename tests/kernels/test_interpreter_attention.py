"""The Triton kernels, interpreted on the CPU, agree with a plain double-precision computation.

The interpreter checks indices, masks and arithmetic, but not races, shared memory or the compiler.
"""

from __future__ import annotations

import math
import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 from the start: python dev.py test --tier kernels", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed: its kernels were not tested")

from triton_problems import CASES, KINDS, exact, poisoned, problem, relative

from astraea.kernels.triton_attention import (
    attend_int8,
    attend_pointer,
    attend_tma,
    config_for,
    descriptor_error,
    launch,
    unavailable_reason,
    unsupported_reason,
)

CPU = torch.device("cpu")
TOLERANCES = {torch.float16: 1e-3, torch.float32: 1e-5}
LSE_TOLERANCE = 2e-3
EXACT = {"pointer": attend_pointer, "tma": attend_tma}
ALL = EXACT | {"int8": attend_int8}
# Relative error of the output, absolute error of the log-sum-exp. Peaked scores are six times as large, and so is
# their rounding error.
INT8_TOLERANCES = {"random": (0.012, 0.012), "peaked": (0.04, 0.25), "offset": (0.012, 0.012)}


def attend(kind, q, k, v, *, need_lse=True, **options):
    return ALL[kind](q, k, v, scale=q.shape[-1] ** -0.5, need_lse=need_lse, **options)


def check(result, expected, dtype):
    (out, lse), (expected_out, expected_lse) = result, expected
    assert out.dtype == dtype
    assert out.is_contiguous()
    assert lse.dtype == torch.float32
    assert relative(out, expected_out) <= TOLERANCES[dtype]
    assert torch.allclose(lse.double(), expected_lse, rtol=0, atol=LSE_TOLERANCE)


# --- arithmetic -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", KINDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=["fp16", "fp32"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", EXACT)
def test_output_and_lse_agree_with_double_precision(kind, case, dtype, inputs):
    q, k, v = problem(case, dtype, inputs)
    check(attend(kind, q, k, v), exact(q, k, v), dtype)


@pytest.mark.parametrize("inputs", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_int8_is_as_accurate_as_eight_bits_allow(case, inputs):
    q, k, v = problem(case, torch.float16, inputs)
    (out, lse), (expected, expected_lse) = attend("int8", q, k, v), exact(q, k, v)
    out_tolerance, lse_tolerance = INT8_TOLERANCES[inputs]
    assert out.dtype == torch.float16
    assert relative(out, expected) <= out_tolerance
    assert (lse.double() - expected_lse).abs().max() <= lse_tolerance


def test_int8_keeps_large_values_in_the_range_of_fp16():
    q, k, v = problem(CASES[2], torch.float16, "random")
    v[:, :, 1, 5] = 60000.0  # a tile's weights sum to more than 1: unscaled, fp16 would overflow
    v[..., 6] *= 1e-3
    out, _ = attend("int8", q, k, v)
    expected, _ = exact(q, k, v)
    for channel in (5, 6, 7):
        for head in range(3):
            assert relative(out[:, :, head, channel], expected[:, :, head, channel]) <= 0.02


def test_int8_of_zeros_is_the_mean_of_the_values():
    q, k, v = problem(CASES[2], torch.float16, "random")
    out, lse = attend("int8", torch.zeros_like(q), torch.zeros_like(k), v)
    assert relative(out, v.double().mean(1, keepdim=True).expand_as(out)) <= 2e-3
    assert torch.allclose(lse, torch.full_like(lse, math.log(k.shape[1])))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_tile_shapes_of_a_device_give_the_same(monkeypatch, kind, head_dim):
    q, k, v = problem((1, 150, 200, 1, head_dim), torch.float16, "random")
    config = config_for("sm89" if kind == "int8" else "sm90", kind, head_dim)
    monkeypatch.setattr(launch, "config_for", lambda architecture, kind, head_dim: config)
    out, lse = attend(kind, q, k, v)
    expected, expected_lse = exact(q, k, v)
    assert relative(out, expected) <= (INT8_TOLERANCES["random"][0] if kind == "int8" else 1e-3)
    assert torch.allclose(lse.double(), expected_lse, rtol=0, atol=0.012 if kind == "int8" else LSE_TOLERANCE)


@pytest.mark.parametrize("kind", ALL)
def test_the_same_inputs_give_the_same_bits_with_and_without_lse(kind):
    q, k, v = problem(CASES[2], torch.float16, "random")
    out, lse = attend(kind, q, k, v)
    again, lse_again = attend(kind, q, k, v)
    without, none = attend(kind, q, k, v, need_lse=False)
    assert torch.equal(out, again)
    assert torch.equal(lse, lse_again)
    assert torch.equal(out, without)
    assert none is None


# --- memory -----------------------------------------------------------------------------------------------------


def packed(q, k, v):
    """Slices of one `[B, N, 3, H, D]`; queries are its first rows."""
    storage = torch.stack([torch.cat([q, k[:, q.shape[1] :]], 1), k, v], dim=2)
    return storage[:, : q.shape[1], 0], storage[:, :, 1], storage[:, :, 2]


def heads_first(q, k, v):
    """Stored as `[B, H, N, D]`."""
    return tuple(t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v))


def expanded(q, k, v):
    """One batch seen as several: a stride of zero."""
    return tuple(t[:1].expand_as(t) for t in (q, k, v))


def odd_strides(q, k, v):
    """Rows that do not begin at multiples of 16 elements."""
    return tuple(torch.nn.functional.pad(t, (3, 4))[..., 3:-4] for t in (q, k, v))


@pytest.mark.parametrize("layout", [packed, heads_first, expanded, odd_strides])
@pytest.mark.parametrize("kind", ALL)
def test_any_strides_work(kind, layout):
    q, k, v = layout(*problem(CASES[2], torch.float16, "random"))
    if kind == "tma" and layout in (expanded, odd_strides):
        assert descriptor_error(k)
        with pytest.raises(ValueError, match="TMA"):
            attend(kind, q, k, v)
        return
    assert not q.is_contiguous()
    out, lse = attend(kind, q, k, v)
    compact, compact_lse = attend(kind, *(t.contiguous() for t in (q, k, v)))
    assert torch.equal(out, compact)
    assert torch.equal(lse, compact_lse)


@pytest.mark.parametrize("kind", ALL)
def test_a_last_dimension_that_is_not_contiguous_is_refused(kind):
    q, k, v = (t.transpose(1, 3).contiguous().transpose(1, 3) for t in problem(CASES[0], torch.float16, "random"))
    with pytest.raises(ValueError, match="contiguous"):
        attend(kind, q, k, v)


@pytest.mark.parametrize("kind", ALL)
def test_a_scale_that_would_reverse_the_order_of_scores_is_refused(kind):
    q, k, v = problem(CASES[0], torch.float16, "random")
    with pytest.raises(ValueError, match="positive"):
        ALL[kind](q, k, v, scale=-1.0, need_lse=False)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_memory_around_the_tensors_does_not_leak(kind, case):
    tensors = problem(case, torch.float16, "random")
    for a, b in zip(attend(kind, *map(poisoned, tensors)), attend(kind, *tensors), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dim", [0, 1, 2], ids=["batch", "row", "head"])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["q", "k", "v"])
@pytest.mark.parametrize("kind", ["pointer", "int8"])
def test_offsets_beyond_32_bits_are_reached(kind, which, dim, tmp_path):
    """Two strides of 2³⁰ elements: offset 2³¹. The file is sparse: only used pages take memory."""
    tensors = list(problem((3, 3, 3, 3, 64), torch.float16, "random"))
    expected, _ = attend(kind, *tensors)
    strides = list(tensors[which].stride())
    strides[dim] = 1 << 30
    size = 1 + sum((length - 1) * stride for length, stride in zip(tensors[which].shape, strides, strict=True))
    storage = torch.from_file(str(tmp_path / "sparse"), shared=True, size=size, dtype=torch.float16)
    tensors[which] = storage.as_strided(tensors[which].shape, strides).copy_(tensors[which])
    out, _ = attend(kind, *tensors)
    assert torch.equal(out, expected)


# --- refusals --------------------------------------------------------------------------------------------


def test_the_interpreter_takes_the_dtypes_that_it_computes_right():
    assert unavailable_reason() == ""
    for kind in ("pointer", "tiles", "tma", "int8", "int8_tiles"):
        assert unsupported_reason(kind, CPU, torch.float16, 64) == ""
        assert "bfloat16" in unsupported_reason(kind, CPU, torch.bfloat16, 64)
        assert "80" in unsupported_reason(kind, CPU, torch.float16, 80)
    assert unsupported_reason("pointer", CPU, torch.float32, 128) == ""
    assert "float32" in unsupported_reason("int8", CPU, torch.float32, 128)
    assert "float32" in unsupported_reason("int8_tiles", CPU, torch.float32, 128)
    assert "xpu" in unsupported_reason("pointer", torch.device("xpu"), torch.float16, 64)


@pytest.mark.parametrize(
    ("architecture", "stands_in"),
    [("sm87", "sm86"), ("sm88", "sm86"), ("sm103", "sm100"), ("sm121", "sm120"), ("sm75", None), ("gfx906", None)],
)
def test_a_device_not_shipped_takes_the_next_older_of_its_generation(architecture, stands_in):
    expected = stands_in and config_for(stands_in, "pointer", 128)
    assert config_for(architecture, "pointer", 128) == expected
    assert config_for(architecture, "pointer", 96) is None


def test_tma_is_for_devices_that_have_it():
    assert config_for("sm90", "tma", 128) is not None
    assert config_for("sm89", "tma", 128) is None
