"""Failures of raylight's real workers, on CPU processes. Opt-in, see test_raylight_workers.py."""

from __future__ import annotations

import importlib
import threading
import time

import comfy.model_management
import comfy.samplers
import pytest
import torch
from raylight_workers_kit import (
    MODEL,
    Division,
    accelerate,
    cluster,
    dense,
    left_behind,
    model_file,
    on_each,
    ray,
    run,
    two,
)
from sampling import TOKENS, WHOLE, last

from astraea.errors import WorkerError


def test_a_store_that_fits_on_one_rank_alone(two, cluster):
    def forbid(model):

        stores = importlib.import_module("astraea_in_worker.engine.state.residual_store")
        stores.kept_aside = stores.ResidualStore

        class Short(stores.kept_aside):
            def __init__(self, size, policy, *rest):
                if policy == "full":
                    raise MemoryError
                super().__init__(size, policy, *rest)

        stores.ResidualStore = Short

    def allow(model):

        stores = importlib.import_module("astraea_in_worker.engine.state.residual_store")
        stores.ResidualStore = stores.kept_aside

    fast, handle = accelerate(two, TOKENS, budget=0.5)
    ray.get(two["workers"][1].model_function_runner_get_values.remote(forbid))
    first, second = on_each(fast)
    ray.get(two["workers"][1].model_function_runner_get_values.remote(allow))
    assert torch.equal(first, second)
    assert last(handle).cache_policy == "fp8"
    assert "no memory for the full store, on another GPU" in last(handle).notes
    assert any(note.startswith("GPU 2: no memory for the full store (") for note in last(handle).notes)
    assert not left_behind(cluster)


def test_an_interrupt_stops_all_ranks_at_one_step(two, cluster, dense):
    fast, handle = accelerate(two, WHOLE, budget=0.5)
    threading.Timer(2.0, comfy.model_management.interrupt_current_processing).start()
    began = time.monotonic()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(fast, steps=200)
    assert time.monotonic() - began < 5.0
    assert not comfy.model_management.processing_interrupted()
    report = last(handle)
    assert not report.finished
    assert 0 < len(report.calls) < 400
    assert not [note for note in report.notes if "other steps" in note]
    assert not left_behind(cluster)
    assert torch.equal(run(two), dense)


def test_a_rank_that_raises_and_one_that_is_killed(cluster, model_file, capsys):
    """A rank that raises while the others wait for it, then a worker that is killed."""
    cluster.end_workers()
    actors = cluster.load(cluster.start(2, Division(ulysses=2), seconds=20.0), MODEL)
    run(actors, steps=2)

    def fail(model):
        def forward(*args, **kwargs):
            raise ValueError("a failing block")

        model.model.diffusion_model.blocks[2].forward = forward

    def mend(model):
        del model.model.diffusion_model.blocks[2].forward

    fast, _ = accelerate(actors, WHOLE, budget=0.5)
    second = actors["workers"][1].model_function_runner_get_values
    ray.get(second.remote(fail))
    began = time.monotonic()
    with pytest.raises(
        WorkerError, match=r"^GPU 2 of 2: ValueError: a failing block\. The other GPUs still wait.*anew"
    ):
        run(fast)
    assert time.monotonic() - began < 20.0
    ray.get(second.remote(mend))
    assert not left_behind(cluster)  # waits for the first, whose communication times out
    assert time.monotonic() - began < 60.0
    ray.kill(actors["workers"][1])
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"^The worker of GPU 2 of 2 has ended.* Start the workers anew"):
        run(fast)
    assert time.monotonic() - began < 10.0
    with pytest.raises(WorkerError, match=r"^The worker of GPU 2 of 2 has ended"):
        accelerate(actors, WHOLE, budget=0.5)


def test_a_worker_killed_while_sampling(cluster, model_file):
    cluster.end_workers()
    actors = cluster.load(cluster.start(2, Division(ulysses=2), seconds=20.0), MODEL)
    fast, _ = accelerate(actors, WHOLE, budget=0.5)
    threading.Timer(2.0, ray.kill, [actors["workers"][0]]).start()
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"GPU [12] of 2"):
        run(fast, steps=400)
    assert time.monotonic() - began < 25.0
