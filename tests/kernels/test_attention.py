"""Every backend that is found and can run here agrees with double precision, on every device of this machine.

Tolerances are those of `kernels.backends.reference`.
"""

from __future__ import annotations

import math

import pytest
import torch

from astraea.kernels import DISPATCHER, KeyTiles, Problem, attend, attend_reference
from astraea.kernels.backends import reference
from astraea.kernels.key_tiles import KEY_TILE, QUERY_TILE
from astraea.kernels.selftest import FAST_LSE_TOLERANCE, FAST_OUTPUT_TOLERANCE, LSE_TOLERANCE, OUTPUT_TOLERANCE

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CASES = [  # batch, queries, keys, heads, head size: why
    (1, 64, 64, 1, 64),  # square
    (2, 17, 131, 3, 64),  # ragged, fewer queries than keys, several heads and rows
    (1, 1, 40, 2, 128),  # one query
    (1, 33, 300, 1, 128),  # ragged at the other head size
    (1, 96, 160, 2, 96),  # a head size that few kernels take
    (1, 700, 2100, 2, 128),  # several tiles of every backend
]
KINDS = ["random", "peaked", "offset"]


def problem(case, dtype=torch.float32, kind="random", device="cpu"):
    batch, queries, keys, heads, dim = case
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, n, heads, dim, generator=generator) for n in (queries, keys, keys))
    if kind == "peaked":
        q = q * 6
    if kind == "offset":
        k = k + 3.0
    return tuple(t.to(dtype).to(device) for t in (q, k, v))


def exact(q, k, v, mask=None):
    q, k, v = (t.cpu().double().transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return (scores.softmax(-1).nan_to_num(0.0) @ v).transpose(1, 2), scores.logsumexp(-1)


def relative(found, expected):
    return ((found.cpu().double() - expected).norm() / expected.norm()).item()


def capable(device, dtype, dim):
    """All backends that can run such calls, without asking the self-test: a wrong backend must fail here."""
    call = Problem(torch.device(device), dtype, 1, 128, 256, 2, dim)
    return [backend for backend in DISPATCHER.backends if not backend.unsupported_reason(call)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_every_capable_backend_agrees_with_double_precision(device, case, dtype, kind):
    q, k, v = problem(case, dtype, kind, device)
    expected, expected_lse = exact(q, k, v)
    backends = capable(device, dtype, case[-1])
    assert "reference" in {backend.name for backend in backends}
    for backend in backends:
        gives_lse = backend.constraints.lse
        out, lse = backend(q, k, v, scale=case[-1] ** -0.5, need_lse=gives_lse)
        tolerance, lse_tolerance = OUTPUT_TOLERANCE[dtype], LSE_TOLERANCE
        if not backend.exact:
            tolerance, lse_tolerance = FAST_OUTPUT_TOLERANCE, FAST_LSE_TOLERANCE
        assert out.shape == q.shape, backend.name
        assert out.dtype == dtype, backend.name
        assert relative(out, expected) <= tolerance, backend.name
        again = backend(q, k, v, scale=case[-1] ** -0.5, need_lse=gives_lse)
        assert torch.equal(again[0], out), backend.name
        if gives_lse:
            assert lse.dtype == torch.float32, backend.name
            assert lse.shape == expected_lse.shape, backend.name
            assert (lse.cpu().double() - expected_lse).abs().max() <= lse_tolerance, backend.name
            assert torch.equal(again[1], lse), backend.name


@pytest.mark.parametrize("need_lse", [False, True], ids=["out", "lse"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_the_chosen_backend_agrees_with_double_precision(device, dtype, need_lse):
    q, k, v = problem(CASES[5], dtype, "random", device)
    expected, expected_lse = exact(q, k, v)
    out, lse = attend(q, k, v, need_lse=need_lse)
    assert relative(out, expected) <= OUTPUT_TOLERANCE[dtype]
    assert (lse is not None) == need_lse
    assert lse is None or (lse.cpu().double() - expected_lse).abs().max() <= LSE_TOLERANCE


LAYOUTS = {
    "packed": lambda t: torch.stack([t, t, t], 2)[:, :, 1],  # one tensor for q, k and v
    "heads first": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "flat": lambda t: t.flatten(2).unflatten(2, t.shape[2:]),
    "channels apart": lambda t: t.transpose(1, 3).contiguous().transpose(1, 3),  # last dimension not contiguous
    "one row for all": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("device", DEVICES)
def test_layouts_do_not_matter(device, layout):
    tensors = tuple(LAYOUTS[layout](t) for t in problem(CASES[1], torch.float32, "random", device))
    expected, expected_lse = exact(*tensors)
    out, lse = attend(*tensors, need_lse=True)
    assert relative(out, expected) <= 1e-5
    assert (lse.cpu().double() - expected_lse).abs().max() <= LSE_TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_stay_as_they_are(layout):
    for dtype in DTYPES:
        tensors = tuple(LAYOUTS[layout](t) for t in problem((2, 17, 131, 1, 64), dtype))
        before = [t.clone() for t in tensors]
        for backend in capable("cpu", dtype, 64):
            backend(*tensors, scale=0.125, need_lse=backend.constraints.lse)
            assert all(map(torch.equal, tensors, before)), backend.name


def test_another_scale_is_used():
    q, k, v = problem(CASES[1])
    expected, expected_lse = exact(q * 0.3 * 64**0.5, k, v)
    for backend in capable("cpu", torch.float32, 64):
        out, lse = backend(q, k, v, scale=0.3, need_lse=backend.constraints.lse)
        assert relative(out, expected) <= 1e-5, backend.name
        assert lse is None or (lse - expected_lse).abs().max() <= LSE_TOLERANCE, backend.name


def test_the_reference_is_the_same_in_chunks(monkeypatch):
    q, k, v = problem(CASES[1])
    whole = attend_reference(q, k, v)
    monkeypatch.setattr(reference, "CHUNK_SCORES", 2 * 3 * 131 * 5)
    for a, b in zip(whole, attend_reference(q, k, v), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def sparse(case):
    """Tensors, a random mask of tiles in which one tile of queries has no keys and another has all, and its lists."""
    batch, queries, keys, heads, _ = case
    shape = (batch, heads, math.ceil(queries / QUERY_TILE), math.ceil(keys / KEY_TILE))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[:, 0, 0], mask[:, -1, -1] = False, True
    return problem(case), mask, KeyTiles.from_mask(mask)


def by_rows(mask, queries, keys):
    return mask.repeat_interleave(QUERY_TILE, 2)[:, :, :queries].repeat_interleave(KEY_TILE, 3)[..., :keys]


@pytest.mark.parametrize("case", [CASES[1], CASES[5], (1, 256, 128, 2, 64)], ids=str)
def test_keys_that_are_not_listed_are_masked(case, monkeypatch):
    (q, k, v), mask, tiles = sparse(case)
    rows = by_rows(mask, q.shape[1], k.shape[1])
    assert torch.equal(tiles.mask(q.shape[1], k.shape[1]), rows)
    expected, expected_lse = exact(q, k, v, rows)
    for chunk in (reference.CHUNK_SCORES, 1):  # also in chunks of one tile of queries
        monkeypatch.setattr(reference, "CHUNK_SCORES", chunk)
        out, lse = attend(q, k, v, need_lse=True, key_tiles=tiles)
        assert relative(out, expected) <= 1e-5
        empty = expected_lse.isinf()
        assert torch.equal(lse.isinf(), empty)
        assert empty.any()
        assert (lse[~empty] - expected_lse[~empty]).abs().max() <= LSE_TOLERANCE
        assert out.transpose(1, 2)[empty].eq(0).all()


def test_entries_after_a_list_are_ignored():
    (q, k, v), _, tiles = sparse(CASES[1])
    listed = torch.arange(tiles.tiles.shape[-1]) < tiles.counts.unsqueeze(-1)
    spoilt = KeyTiles(tiles.counts, torch.where(listed, tiles.tiles, torch.iinfo(torch.int32).max))
    assert torch.equal(attend_reference(q, k, v, key_tiles=tiles)[0], attend_reference(q, k, v, key_tiles=spoilt)[0])


def test_a_scale_that_is_not_positive_is_refused():
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive"):
            attend(*problem(CASES[1]), scale=scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[0], k, v), "dimensions"),
        (lambda q, k, v: (q, k[:, :-1], v), "differ"),
        (lambda q, k, v: (q, k[:, :, :1], v[:, :, :1]), "differ"),
        (lambda q, k, v: (q, k.half(), v), "float16"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        attend(*change(*problem(CASES[1])))
