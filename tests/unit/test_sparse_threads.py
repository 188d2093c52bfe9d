"""Sparse attention in a run of several devices, with a thread for each."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_sparse_run import LAYERS, are_sparse, call_of, make_run, model_call, sample, tensors

from astraea.engine.sparse import work as work_module
from astraea.engine.sparse.plan import CHOICES
from astraea.engine.sparse.run import SparseRun
from astraea.kernels.race import Timing


def uneven(seed):
    """Calls of a model call in which some heads attend more sharply than others, and some layers than others."""
    size = torch.rand(LAYERS, 1, 1, 4, 1, generator=torch.Generator().manual_seed(seed)) * 6.0
    for layer in range(LAYERS):
        q, k, v = tensors(heads=4, seed=seed + layer)
        yield call_of(q * size[layer], k, v)


@pytest.mark.parametrize("choice", CHOICES)
def test_threads_do_not_mix(choice):
    """Threads, one for each device, count layers and keep the mean on their own; results are those of one thread."""
    roles = ["a", "b", "c", "d"]
    calls = {role: [call_of(*tensors(seed=10 * n + layer)) for layer in range(LAYERS)] for n, role in enumerate(roles)}
    alone = make_run(4, choice=choice, limit=0.0)
    expected = {role: sample(alone, calls[role], roles=role) for role in roles}
    together = make_run(4, choice=choice, limit=0.0)
    ready = threading.Barrier(len(roles))

    def work(role):
        ready.wait()
        return sample(together, calls[role], roles=role)

    with ThreadPoolExecutor(len(roles)) as pool:
        found = dict(zip(roles, pool.map(work, roles), strict=True))
    for role in roles:
        assert are_sparse(found[role]) == are_sparse(expected[role])
        for step in range(1, 4):
            assert all(map(torch.equal, found[role][step], expected[role][step]))
    one, other = alone.finish(), together.finish()
    assert (one.calls, one.pairs, one.choices) == (other.calls, other.pairs, other.choices)
    assert one.computed == pytest.approx(other.computed)
    assert one.calls == 4 * 3 * LAYERS


@pytest.mark.parametrize("choice", CHOICES)
def test_a_conditioning_attends_the_same_whichever_comes_first(choice):
    """Threads come in any order. Heads of one conditioning may be worth more than all of the other's."""
    calls = {(role, step): list(uneven(100 * role + 10 * step)) for role in (0, 1) for step in range(1, 4)}
    found = []
    for order in ((0, 1), (1, 0)):
        run, of_steps = make_run(4, choice=choice, limit=0.0), []
        for step in range(1, 4):
            made = {role: model_call(run, step, calls[role, step], roles=role) for role in order}
            of_steps += [*made[0], *made[1]]
        found.append(of_steps)
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("heads", [(2, 4), (2, 2)], ids=["other calls", "the same calls"])
def test_to_wait_for_the_timing_of_another_device_is_none(monkeypatch, heads):
    ready, tiled = threading.Barrier(2), SparseRun._tiled

    def together(*args):
        """Let both threads come to the timing at the same moment."""
        found = tiled(*args)
        ready.wait()
        return found

    def race(*_, **__):
        time.sleep(0.1)
        return Timing(1.0, 2.0)

    monkeypatch.setattr(SparseRun, "_tiled", together)
    monkeypatch.setattr(work_module, "race", race)
    run = make_run(kernel="auto", choice="routing")

    def work(role):
        return model_call(run, 2, [call_of(*tensors(heads=heads[role]))], roles=role)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert run.finish().tuning_seconds == pytest.approx(0.1 * len(set(heads)), abs=0.05)
