"""Providers of attention over listed key tiles: packages, the backend timed fastest, or dense attention if it wins."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace

import pytest
import torch
from stand_ins import backend, own_folder, timed  # noqa: F401

from astraea.kernels import DISPATCHER, Constraints, KeyTiles, Problem, attend_reference, autotune, comfy_kitchen
from astraea.kernels import autotune_cache as cache
from astraea.kernels import race as race_module
from astraea.kernels.backends import packages
from astraea.kernels.backends.cpu_key_tiles import BACKENDS, attend_listed
from astraea.kernels.dispatch import Dispatcher
from astraea.kernels.key_tiles import Orders, Rest
from astraea.kernels.race import Timing, race

GENERATOR = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(2, rows, 3, 64, generator=GENERATOR) for rows in (200, 331, 331))
MASK = torch.rand(2, 3, 2, 6, generator=GENERATOR) < 0.5
MASK[..., 0] = True
LISTS = KeyTiles.from_mask(MASK)
ORDERS = Orders(
    torch.stack([torch.randperm(331, generator=GENERATOR) for _ in range(2)]).to(torch.int32),
    torch.stack([torch.randperm(200, generator=GENERATOR) for _ in range(4)]).view(2, 2, 200).to(torch.int32),
    torch.tensor([0, 1, 1], dtype=torch.int32),
)
PROBLEM = Problem.of(Q, K, V, key_tiles=LISTS)
TAKES_LISTS = Constraints(key_tiles=True)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """Forgets the races of this process, as a new one would."""
    monkeypatch.setattr(race_module, "_known", {})


@pytest.fixture
def installed(monkeypatch):
    """Make modules importable: `installed(module, **content)`."""

    def install(module, **content):
        packages._import_package.cache_clear()
        made = types.ModuleType(module)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, module, made)

    yield install
    packages._import_package.cache_clear()


# --- SpargeAttn -----------------------------------------------------------------------------------------------


def sparge(q, k, v, mask_id=None, dropout_p=0.0, scale=None, smooth_k=True, pvthreshd=50, tensor_layout="HND"):
    """Computes what the package documents: a mask of 128 by 64 rows, int8 `[B, H, n_q, n_k]`."""
    assert tensor_layout == "NHD"
    assert mask_id.dtype == torch.int8
    assert mask_id.shape == (q.shape[0], q.shape[2], -(-q.shape[1] // 128), -(-k.shape[1] // 64))
    return attend_reference(q, k, v, scale=scale, key_tiles=KeyTiles.from_mask(mask_id.bool()))[0]


@pytest.mark.parametrize("orders", [None, ORDERS], ids=["as they are", "in orders"])
def test_sparge_gets_the_mask_and_rows_in_order(installed, orders):
    installed("spas_sage_attn", block_sparse_sage2_attn_cuda=sparge)
    lists = replace(LISTS, orders=orders)
    found = DISPATCHER.named("sparge")
    assert found.unavailable_reason() == ""
    out, lse = found(Q, K, V, scale=0.2, need_lse=False, key_tiles=lists)
    assert lse is None
    assert torch.allclose(out, attend_reference(Q, K, V, scale=0.2, key_tiles=lists)[0], atol=2e-6)


def test_sparge_refuses_what_it_cannot_compute(monkeypatch, installed):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    found = DISPATCHER.named("sparge")
    able = replace(PROBLEM, device=torch.device("cuda", 0), dtype=torch.float16)
    assert found.unsupported_reason(able) == "not installed"
    installed("spas_sage_attn", block_sparse_sage2_attn_cuda=sparge)
    assert found.unsupported_reason(able) == ""
    assert not found.exact
    refused = {
        "rest": replace(able, rest=True),
        "log-sum-exp": replace(able, need_lse=True),
        "usual sizes": replace(able, usual_tiles=False),
        "with key tiles only": replace(able, key_tiles=False),
        "head sizes 64 and 128, not 96": replace(able, head_dim=96),
        "not for float32": replace(able, dtype=torch.float32),
        "not on cpu": replace(able, device=torch.device("cpu")),
    }
    for part, problem in refused.items():
        assert part in found.unsupported_reason(problem)


# --- comfy-kitchen --------------------------------------------------------------------------------------------


def on_cuda(rows=200, dim=128, dtype=torch.float16):
    """Return what is asked of a tensor before a call, without a device."""
    return types.SimpleNamespace(shape=torch.Size((1, rows, 2, dim)), dtype=dtype, device=torch.device("cuda", 0))


def kitchen(calls=None, available=True):
    def sol_attn(q, k, v, **arguments):
        calls.append(arguments)
        return attend_reference(q, k, v, scale=arguments["scale"])[0]

    return {"sol_attn": sol_attn, "sol_attn_is_available": lambda device: available}


def test_reasons_against_comfy_kitchen(installed, monkeypatch):
    reason = comfy_kitchen.unsupported_reason
    monkeypatch.setitem(sys.modules, "comfy_kitchen", None)  # not installed
    assert "no sparse attention" in reason(on_cuda(), on_cuda(), 0, 0)
    installed("comfy_kitchen")
    assert reason(on_cuda(), on_cuda(), 0, 0) == "this comfy-kitchen has no sparse attention"
    installed("comfy_kitchen", **kitchen(available=False))
    assert "this device" in reason(on_cuda(), on_cuda(), 0, 0)
    installed("comfy_kitchen", **kitchen())
    assert "this device" in reason(Q, Q, 0, 0)
    assert "as many queries as keys" in reason(on_cuda(100), on_cuda(200), 0, 0)
    assert "heads of 128" in reason(on_cuda(dim=64), on_cuda(dim=64), 0, 0)
    assert "half precision" in reason(on_cuda(dtype=torch.float32), on_cuda(dtype=torch.float32), 0, 0)
    assert "one end only" in reason(on_cuda(), on_cuda(), 3, 5)
    for before, after in ((0, 0), (3, 0), (0, 5)):
        assert reason(on_cuda(), on_cuda(dtype=torch.bfloat16), before, after) == ""


def test_a_broken_comfy_kitchen_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "comfy_kitchen.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.delitem(sys.modules, "comfy_kitchen", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert "no sparse attention" in comfy_kitchen.unsupported_reason(on_cuda(), on_cuda(), 0, 0)


@pytest.mark.parametrize(
    ("before", "after", "spared"), [(0, 0, [0, 0]), (1, 0, [0, 1]), (65, 0, [0, 2]), (0, 1, [5, 6]), (0, 20, [4, 6])]
)
def test_comfy_kitchen_gets_the_tiles_to_spare(installed, before, after, spared):
    calls = []
    installed("comfy_kitchen", **kitchen(calls))
    out = comfy_kitchen.attend(K, K, V, scale=0.2, density=0.4, before=before, after=after)
    assert torch.equal(out, attend_reference(K, K, V, scale=0.2)[0])
    assert calls[0]["topk_ratio"] == 0.4
    assert calls[0]["scale"] == 0.2
    assert calls[0]["sink_blocks"] == calls[0]["sink_q"] == spared


# --- the race against dense attention -------------------------------------------------------------------------


def clock(monkeypatch, *milliseconds):
    """Replace measured times by given ones, in turn. Returns what was timed."""
    left, worked = list(milliseconds), []

    def time_call(work, device):
        worked.append(work())
        return left.pop(0)

    monkeypatch.setattr(race_module, "time_call", time_call)
    return worked


def ran(density=0.3, problem=PROBLEM):
    return race(problem, density, sparse=lambda: "sparse", dense=lambda: "dense")


def test_what_a_call_takes_now_and_then_counts_in_part(monkeypatch):
    worked = clock(monkeypatch, *[5.0, 9.0, 4.0] * 3)
    works = {"sparse": lambda: "sparse", "dense": lambda: "dense"}
    assert race(PROBLEM, 0.3, **works, now_and_then=(lambda: "choice", 4)) == Timing(sparse=6.0, dense=9.0)
    assert worked == ["sparse", "dense", "choice"] * 3
    assert Timing(6.0, 9.0).at(2.0) == Timing(12.0, 9.0)
    assert not Timing(6.0, 9.0).at(2.0).is_worth_it


def test_a_race_takes_the_shortest_of_times_in_turn(monkeypatch):
    worked = clock(monkeypatch, 5.0, 9.0, 3.0, 8.0, 4.0, 7.0)
    assert ran() == Timing(sparse=3.0, dense=7.0)
    assert worked == ["sparse", "dense"] * 3


def test_a_race_is_run_once_for_calls_of_a_kind(monkeypatch):
    clock(monkeypatch, *[1.0, 2.0] * 12)
    first = ran(0.30)
    assert ran(0.31) is first  # densities that differ little
    assert ran(0.30, replace(PROBLEM, keys=300, queries=150)) is first
    assert ran(0.50) is not first
    assert ran(0.30, replace(PROBLEM, keys=4000)) is not first
    assert ran(0.01) == ran(0.05)


def test_a_race_is_remembered_by_a_later_process(monkeypatch):
    clock(monkeypatch, *[1.0, 2.0] * 3)
    first = ran()
    assert list(cache.read(cache.RACES).values()) == [{"sparse": 1.0, "dense": 2.0}]
    assert cache.read() == {}  # and is no choice of a backend
    monkeypatch.setattr(race_module, "_known", {})
    clock(monkeypatch)
    assert ran() == first
    assert ran() is ran()


@pytest.mark.parametrize(
    "entry",
    [
        {"sparse": 1.0},
        {"sparse": "1", "dense": 2.0},
        {"sparse": -1.0, "dense": 2.0},
        {"sparse": 1.0, "dense": 0},
        {"sparse": None, "dense": [2.0]},
        {},
        "1",
        None,
    ],
    ids=str,
)
def test_damaged_entries_are_ignored(monkeypatch, entry):
    clock(monkeypatch, *[1.0, 2.0] * 3)
    ran()
    content = json.loads(cache.path().read_text("utf-8"))
    content[cache.RACES] = dict.fromkeys(content[cache.RACES], entry)
    cache.path().write_text(json.dumps(content), "utf-8")
    monkeypatch.setattr(race_module, "_known", {})
    clock(monkeypatch, *[3.0, 4.0] * 3)
    assert ran() == Timing(3.0, 4.0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "races": []}', '{"format": 1, "races": {"a": NaN}}'])
def test_a_damaged_file_is_replaced(monkeypatch, text):
    cache.folder().mkdir(parents=True)
    cache.path().write_text(text, "utf-8")
    clock(monkeypatch, *[3.0, 4.0] * 3)
    assert ran() == Timing(3.0, 4.0)
    assert len(cache.read(cache.RACES)) == 1


def test_lists_are_worth_it_only_if_clearly_faster():
    assert Timing(0.94, 1.0).is_worth_it
    assert not Timing(0.96, 1.0).is_worth_it
    assert not Timing(3.0, 1.0).is_worth_it
    reason = Timing(sparse=2.5, dense=1.25).reason
    assert reason == "dense attention is as fast on this device, 1.25 ms against 2.5 ms for the lists of tiles"


def test_a_race_by_the_clock():
    x = torch.randn(300, 300)
    found = race(PROBLEM, 0.3, sparse=lambda: x @ x, dense=lambda: [x @ x for _ in range(20)])
    assert 0.0 < found.sparse < found.dense
    assert found.is_worth_it


# --- backends that take lists, timed --------------------------------------------------------------------------


def test_backends_are_timed_with_the_lists(monkeypatch):
    seen = []

    def time_backends(backends, *tensors, key_tiles, **options):
        seen.append(([each.name for each in backends], key_tiles, tensors[0].shape))
        return {each.name: {"one": 2.0, "two": 1.0}[each.name] for each in backends}

    monkeypatch.setattr(autotune, "time_backends", time_backends)
    able = [backend(name, attend_listed, constraints=TAKES_LISTS) for name in ("one", "two")]
    dispatcher = Dispatcher([*able, backend("dense only", constraints=Constraints())])
    lists = replace(LISTS, orders=ORDERS)
    choice = dispatcher.choose(Q, K, V, PROBLEM, key_tiles=lists)
    assert choice.backend.name == "two"
    assert seen == [(["one", "two"], lists, Q.shape)]
    assert dispatcher.known(PROBLEM) is choice
    out, _ = dispatcher.attend(Q, K, V, key_tiles=lists)
    assert torch.allclose(out, attend_reference(Q, K, V, key_tiles=lists)[0], atol=2e-6)
    assert len(seen) == 1
    assert Dispatcher(able).choose(Q, K, V, PROBLEM, key_tiles=lists).why == "the fastest, timed earlier"


def test_without_lists_to_time_with_the_first_usable_is_taken(monkeypatch):
    timed(monkeypatch, {})
    able = [backend(name, attend_listed, constraints=TAKES_LISTS) for name in ("one", "two")]
    assert Dispatcher(able).choose(Q, K, V, PROBLEM).backend.name == "one"


def test_the_whole_call_is_timed_and_the_slower_loses():
    shapes = set()

    def slow(q, k, v, *, scale, need_lse, key_tiles):
        shapes.add((*q.shape, key_tiles is LISTS))
        torch.randn(500, 500) @ torch.randn(500, 500)
        return attend_listed(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles)

    dispatcher = Dispatcher([backend("slow", slow, constraints=TAKES_LISTS), BACKENDS[0]])
    choice = dispatcher.choose(Q, K, V, PROBLEM, key_tiles=LISTS)
    assert choice.backend.name == "cpu-key-tiles"
    assert choice.milliseconds["slow"] > choice.milliseconds["cpu-key-tiles"] > 0.0
    assert (*Q.shape, True) in shapes


def test_kinds_of_lists_are_told_apart():
    plain = PROBLEM
    rest = Rest(torch.zeros(2, 3, 2), torch.zeros(2, 3, 2, 64))
    others = [
        Problem.of(Q, K, V),
        Problem.of(Q, K, V, key_tiles=replace(LISTS, rest=rest)),
        Problem.of(Q, K, V, key_tiles=replace(LISTS, key_tile=16)),
    ]
    kinds = {problem.kind for problem in [plain, *others]}
    assert len(kinds) == 4
    assert len({cache.key(problem, "auto") for problem in kinds}) == 4
    usual_only = backend("usual", constraints=TAKES_LISTS)
    assert usual_only.unsupported_reason(others[2]) == "takes key tiles of the usual sizes only"


def test_a_backend_that_ignores_the_lists_is_not_used():
    def dense(q, k, v, *, scale, need_lse, key_tiles=None):
        return attend_reference(q, k, v, scale=scale, need_lse=need_lse)

    wrong = backend("wrong", dense, constraints=TAKES_LISTS)
    dispatcher = Dispatcher([wrong, *BACKENDS])
    assert "its output is off" in dispatcher.unsupported_reason(wrong, PROBLEM)
    assert dispatcher.choose(Q, K, V, PROBLEM, key_tiles=LISTS).backend.name == "cpu-key-tiles"
    assert dispatcher.unsupported_reason(wrong, replace(PROBLEM, key_tiles=False)) == ""  # a test of its own
