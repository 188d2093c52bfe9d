"""Attention with log-sum-exp agrees with a plain double-precision computation."""

from __future__ import annotations

import pytest
import torch

from astraea.kernels import attention
from astraea.kernels.attention import attend, attend_reference

CASES = [  # batch, queries, keys, heads, head size: why
    (1, 64, 64, 1, 64),  # square
    (2, 17, 131, 3, 64),  # ragged, fewer queries than keys, several heads
    (1, 1, 40, 2, 128),  # one query
    (1, 33, 300, 1, 128),
]


def problem(case, dtype, kind):
    batch, queries, keys, heads, dim = case
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, n, heads, dim, generator=generator) for n in (queries, keys, keys))
    if kind == "peaked":
        q = q * 6
    if kind == "offset":
        k = k + 3.0
    return q.to(dtype), k.to(dtype), v.to(dtype)


def exact(q, k, v):
    q, k, v = (t.double().transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return (scores.softmax(-1) @ v).transpose(1, 2), scores.logsumexp(-1)


@pytest.mark.parametrize("kind", ["random", "peaked", "offset"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    "function", [attend_reference, lambda *qkv: attend(*qkv, need_lse=True)], ids=["ref", "attend"]
)
def test_output_and_lse_agree_with_double_precision(function, case, dtype, tolerance, kind):
    q, k, v = problem(case, dtype, kind)
    out, lse = function(q, k, v)
    expected, expected_lse = exact(q, k, v)
    assert out.dtype == dtype
    assert ((out.double() - expected).norm() / expected.norm()) <= tolerance
    assert (lse.double() - expected_lse).abs().max() <= 2e-3
    again = function(q, k, v)
    assert torch.equal(again[0], out)
    assert torch.equal(again[1], lse)


def test_without_lse_the_output_is_the_same():
    q, k, v = problem(CASES[1], torch.float32, "random")
    out, lse = attend(q, k, v)
    assert lse is None
    assert torch.allclose(out, attend_reference(q, k, v)[0], atol=1e-5)


def test_reference_in_chunks_equals_the_reference_in_one(monkeypatch):
    q, k, v = problem(CASES[1], torch.float32, "random")
    whole = attend_reference(q, k, v)
    monkeypatch.setattr(attention, "CHUNK_SCORES", 2 * 3 * 131 * 5)
    for a, b in zip(whole, attend_reference(q, k, v), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_wrong_private_operator_is_not_used(monkeypatch):
    monkeypatch.setattr(attention, "_cpu_flash_agrees", None)
    monkeypatch.setattr(attention, "_attend_cpu_flash", lambda q, k, v: (torch.zeros_like(q), torch.zeros(1)))
    q, k, v = problem(CASES[1], torch.float32, "random")
    out, _ = attend(q, k, v, need_lse=True)
    assert torch.equal(out, attend_reference(q, k, v)[0])
