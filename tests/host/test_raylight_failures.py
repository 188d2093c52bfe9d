"""What goes wrong in raylight's workers is said in words, and leaves nothing behind. With a stand-in for Ray."""

from __future__ import annotations

import sys
import threading

import comfy.model_management
import fake_ray
import pytest
import torch
from raylight_kit import accelerate, left_behind, log, ray_actors, run, settle, subjects
from sampling import last

import astraea.host.raylight.actors as actors_module
from astraea.errors import WorkerError
from astraea.host.raylight import workers as workers_module


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


def test_the_first_failure_is_said_though_others_still_wait(ray_actors, monkeypatch):
    monkeypatch.setattr(workers_module, "STOP_SECONDS", 0.3)
    fast, _ = accelerate(ray_actors)
    hangs, first, second = threading.Event(), *subjects(ray_actors)
    first.before = hangs.wait

    def fail():
        raise RuntimeError("CUDA out of memory")

    second.before = fail
    with pytest.raises(
        WorkerError,
        match=r"GPU 2 of 2: RuntimeError: CUDA out of memory\. The other GPUs still wait.* Start the workers anew",
    ):
        run(fast)
    hangs.set()
    first.before = second.before = lambda: None
    settle(ray_actors)
    assert not left_behind(ray_actors)


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
    monkeypatch.setattr(actors_module, "PACK_FOLDER", tmp_path)
    monkeypatch.delitem(sys.modules, "astraea_in_worker", raising=False)
    with pytest.raises(WorkerError, match=r"GPU 1 of 2 has no Astraea in .*, where ComfyUI has it"):
        accelerate(ray_actors)


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
