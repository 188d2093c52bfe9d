"""Failures in raylight's workers are said in words, and leave nothing behind. With a stand-in for Ray."""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import fake_ray
import pytest
import torch
from raylight_kit import accelerate, left_behind, log, ray_actors, run, settle, subjects
from sampling import last
from sparse_kit import SMALL

import astraea.host.raylight.actors as actors_module
from astraea.engine.report import ReportHandle
from astraea.engine.sparse.plan import SparsePlan
from astraea.errors import WorkerError
from astraea.host.raylight import in_worker
from astraea.host.raylight import workers as workers_module
from astraea.host.raylight.workers import attend_sparsely_in_workers

PACK_FUNCTION = actors_module._pack_function
# In place of the pack's: it loads a pack that counts how often it was loaded.
BOOTSTRAP = """
import sys, types
loaded = []
def load_pack(name):
    loaded.append(name)
    for part in ("", ".host", ".host.raylight", ".host.raylight.in_worker"):
        module = sys.modules[name + part] = types.ModuleType(name + part)
        module.__path__ = []
    module.describe = lambda model, number: (model, number, len(loaded))
"""


def test_a_dead_worker_is_named(ray_actors):
    fast, _ = accelerate(ray_actors)
    ray_actors["workers"][1].dead = True
    with pytest.raises(WorkerError, match=r"The worker of GPU 2 of 2 has ended.* Start the workers anew"):
        run(fast)
    ray_actors["workers"][1].dead = False
    settle(ray_actors)
    assert not left_behind(ray_actors)
    assert torch.equal(run(fast)[0], run(fast)[1])


def test_a_worker_that_dies_while_sampling_is_named(ray_actors):
    fast, handle = accelerate(ray_actors)

    def die():
        raise fake_ray.RayActorError("killed")

    subjects(ray_actors)[0].before = die
    with pytest.raises(WorkerError, match=r"The worker of GPU 1 of 2 has ended"):
        run(fast)
    subjects(ray_actors)[0].before = lambda: None
    settle(ray_actors)
    assert not left_behind(ray_actors)
    run(fast)
    assert len(handle.reports) == 1


@pytest.mark.parametrize("together", [True, False], ids=["one clip", "a clip each"])
def test_the_first_failure_is_said_though_another_goes_on(ray_actors, monkeypatch, together):
    monkeypatch.setattr(workers_module, "STOP_SECONDS", 0.3)
    fast, _ = accelerate(ray_actors)
    if together:  # what raylight's settings say of them
        planned = fast["workers"][0]._workers
        planned._degrees = replace(planned._degrees, data=1, sequence=2)
        monkeypatch.setattr(in_worker, "groups_of", lambda degrees: [])
        monkeypatch.setattr(in_worker.WorkerRanks, "share", lambda ranks, architecture: architecture)
    hangs, first, second = threading.Event(), *subjects(ray_actors)
    first.before = hangs.wait

    def fail():
        raise RuntimeError("CUDA out of memory")

    second.before = fail
    hint = r" The other GPUs still wait.* Start the workers anew: .*\.$" if together else "$"
    with pytest.raises(WorkerError, match=r"^GPU 2 of 2: RuntimeError: CUDA out of memory\." + hint):
        run(fast)
    calls = counted_calls(first)
    hangs.set()
    settle(ray_actors)
    assert calls == [], "it stops at its next model call"
    assert not left_behind(ray_actors)
    first.before = second.before = lambda: None
    run(fast)
    assert not list(Path(tempfile.gettempdir()).glob(f"astraea-stop-{os.getpid()}-*"))


def counted_calls(worker):
    """A list that gets an entry for each of a worker's model calls from now on."""
    block, calls = worker.model.model.diffusion_model.blocks[0], []
    original = type(block).forward
    block.forward = lambda *args, **kwargs: calls.append(1) or original(block, *args, **kwargs)
    return calls


def test_stop_reaches_a_gpu_that_is_slow(ray_actors, monkeypatch):
    """Of GPUs with a clip each, one may be in a long step when the other has stopped already."""
    monkeypatch.setattr(workers_module, "STOP_SECONDS", 0.3)
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", lambda: None)
    fast, _ = accelerate(ray_actors)
    hangs = threading.Event()
    subjects(ray_actors)[1].before = hangs.wait
    monkeypatch.setattr(workers_module, "processing_interrupted", lambda: True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(fast, steps=20)
    monkeypatch.setattr(workers_module, "processing_interrupted", lambda: False)
    calls = counted_calls(subjects(ray_actors)[1])
    hangs.set()
    settle(ray_actors)
    assert calls == []


def test_a_worker_that_does_not_answer_is_named(ray_actors, monkeypatch):
    fast, _ = accelerate(ray_actors)
    monkeypatch.setattr(actors_module.Actors.answers, "__defaults__", (0.2,))
    hangs = threading.Event()
    subjects(ray_actors)[1].before = hangs.wait
    stuck = ray_actors["workers"][1].common_ksampler.remote()
    with pytest.raises(WorkerError, match=r"The worker of GPU 2 of 2 does not answer"):
        run(fast)
    hangs.set()
    fake_ray.get(stuck)
    settle(ray_actors)
    assert not left_behind(ray_actors)


def test_an_error_inside_a_run_names_the_gpu_and_the_reason(ray_actors):
    fast, _ = accelerate(ray_actors)
    block = subjects(ray_actors)[1].model.model.diffusion_model.blocks[2]

    def fail(*args, **kwargs):
        raise ValueError("a failing block")

    block.forward = fail
    with pytest.raises(WorkerError, match=r"^GPU 2 of 2: ValueError: a failing block\.$"):
        run(fast)
    del block.forward
    settle(ray_actors)
    assert not left_behind(ray_actors)


def test_arguments_that_ray_cannot_send(ray_actors, monkeypatch):
    fast, _ = accelerate(ray_actors)
    send = fake_ray.Method.remote

    def refusing(method, *args, **kwargs):
        if method.name == "common_ksampler":
            raise TypeError("cannot be pickled")
        return send(method, *args, **kwargs)

    monkeypatch.setattr(fake_ray.Method, "remote", refusing)
    with pytest.raises(TypeError, match="cannot be pickled"):
        run(fast)
    settle(ray_actors)
    assert not left_behind(ray_actors)


def test_another_version_of_the_pack_is_refused(ray_actors, monkeypatch):
    monkeypatch.setattr(workers_module, "VERSION", "99.0")
    with pytest.raises(WorkerError, match=r"GPU 1 of 2 has Astraea .*, ComfyUI has 99\.0\. Start the workers anew"):
        accelerate(ray_actors)


def test_a_worker_without_the_pack_is_named(ray_actors, monkeypatch, tmp_path):
    monkeypatch.setattr(actors_module, "_pack_function", PACK_FUNCTION)
    monkeypatch.setattr(actors_module, "PACK_FOLDER", tmp_path)
    with pytest.raises(WorkerError, match=r"GPU 1 of 2 has no Astraea in .*, where ComfyUI has it"):
        accelerate(ray_actors)


def test_a_worker_loads_the_pack_once_from_its_folder(monkeypatch, tmp_path):
    (tmp_path / "bootstrap.py").write_text(BOOTSTRAP)
    names = ("", ".host", ".host.raylight", ".host.raylight.in_worker")
    for name in names:
        monkeypatch.setitem(sys.modules, f"astraea_in_worker{name}", None)  # to be taken off afterwards
        del sys.modules[f"astraea_in_worker{name}"]
    call = PACK_FUNCTION()
    assert call("a model", str(tmp_path), "describe", 1) == ("a model", 1, 1)
    assert call("a model", str(tmp_path), "describe", 2) == ("a model", 2, 1)


def test_workers_without_a_model(ray_actors):
    subjects(ray_actors)[1].model = None
    with pytest.raises(WorkerError, match=r"GPU 2 of 2 has no model"):
        accelerate(ray_actors)


def test_workers_with_different_models(ray_actors):
    import kit

    subjects(ray_actors)[1].model = kit.build("Flux").model
    with pytest.raises(WorkerError, match=r"GPU 2 of 2 has a Flux, GPU 1 a WAN21"):
        accelerate(ray_actors)


def test_an_interrupt_reaches_the_workers(ray_actors, monkeypatch):
    """The host's flag is this process's; real workers see the file alone. Here the workers are kept from the flag."""
    fast, handle = accelerate(ray_actors)
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", lambda: None)
    pressed = threading.Event()
    monkeypatch.setattr(workers_module, "processing_interrupted", pressed.is_set)
    block = subjects(ray_actors)[0].model.model.diffusion_model.blocks[0]
    original, calls = block.forward, []

    def slow(*args, **kwargs):
        calls.append(1)
        pressed.set()
        threading.Event().wait(0.5)
        return original(*args, **kwargs)

    block.forward = slow
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(fast, steps=20)
    del block.forward
    assert len(calls) < 5
    report = last(handle)
    assert not report.finished
    settle(ray_actors)
    assert not left_behind(ray_actors)
    pressed.clear()
    run(fast)
    assert last(handle).finished, "an interrupt is over with its run"


def test_stop_with_sparse_attention_alone(ray_actors, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", lambda: None)
    fast = attend_sparsely_in_workers(ray_actors, SparsePlan(density=0.4, **SMALL), ReportHandle())
    monkeypatch.setattr(workers_module, "processing_interrupted", lambda: True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(fast, steps=200)
    settle(ray_actors)
    assert not left_behind(ray_actors)


def test_an_error_with_sparse_attention_alone_is_in_words(ray_actors):
    fast = attend_sparsely_in_workers(ray_actors, SparsePlan(density=0.4, **SMALL), ReportHandle())
    block = subjects(ray_actors)[0].model.model.diffusion_model.blocks[2]

    def fail(*args, **kwargs):
        raise AssertionError

    block.forward = fail
    with pytest.raises(WorkerError, match=r"^GPU 1 of 2: AssertionError\.$"):
        run(fast)
    del block.forward


def test_another_loaders_model_is_noticed(ray_actors, load_tiny):
    """raylight's two loaders on one set of workers: at the second prompt both are in ComfyUI's cache."""
    fast, _ = accelerate(ray_actors)
    first = run(fast)[0]
    for worker in subjects(ray_actors):
        worker.model = worker.model.clone()  # as raylight's own nodes leave it
    assert torch.equal(run(fast)[0], first)
    kept = [worker.model for worker in subjects(ray_actors)]
    for worker in subjects(ray_actors):
        worker.model = load_tiny()
        worker.model.model = copy.copy(worker.model.model)  # another object, wherever the test's models come from
    with pytest.raises(WorkerError, match="Another of raylight's model loaders has put its model"):
        run(fast)
    other, _ = accelerate(ray_actors)
    run(other)
    for worker, model in zip(subjects(ray_actors), kept, strict=True):
        worker.model = model
    assert torch.equal(run(fast)[0], first)


def test_ray_that_was_stopped(ray_actors, monkeypatch):
    fast, _ = accelerate(ray_actors)
    monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)
    with pytest.raises(WorkerError, match=r"^Ray has been stopped\. Start the workers anew"):
        run(fast)
    with pytest.raises(WorkerError, match=r"^Ray has been stopped"):
        accelerate(ray_actors)


def test_long_reasons_are_cut_at_a_word(ray_actors):
    fast, _ = accelerate(ray_actors)

    def fail():
        raise RuntimeError("une erreur très\nlongue " * 100_000)

    subjects(ray_actors)[0].before = fail
    with pytest.raises(WorkerError, match=r"^GPU 1 of 2: RuntimeError: une erreur très longue une .* …\.$") as raised:
        run(fast)
    assert len(str(raised.value)) < 500
