"""Shared by the tests of the Raylight nodes: workers as raylight has them, under a stand-in for Ray."""

from __future__ import annotations

import sys
import threading

import fake_ray
import pytest
from sampling import WHOLE, sample

import astraea.host.raylight.actors as actors_module
from astraea.engine.planning.plan import make_plan
from astraea.engine.report import ReportHandle
from astraea.host.raylight import in_worker
from astraea.host.raylight.workers import accelerate_workers

RUN = {"steps": 8, "shape": (1, 16, 3, 8, 8)}
ONE_AT_A_TIME = threading.Lock()  # they share this process, with its random numbers and its memory management
ONE_BY_ONE = {"is_xdit": False, "is_fsdp": False}  # raylight's settings: each GPU samples a clip of its own


def call_pack(model, folder, function, *arguments):
    return getattr(in_worker, function)(model, *arguments)


class Worker:
    """The methods of raylight's worker that the pack calls, as raylight has them."""

    def __init__(self, model, settings):
        self.model, self.settings = model, settings
        self.before = lambda: None

    def get_parallel_dict(self):
        return self.settings

    def model_function_runner_get_values(self, function, *args):
        return function(self.model, *args)

    def common_ksampler(self, seed=0, **changes):
        self.before()
        with ONE_AT_A_TIME:
            return ({"samples": sample(self.model, seed=seed, **{**RUN, **changes})},)


@pytest.fixture
def log():
    return []


@pytest.fixture
def ray_actors(load_tiny, log, monkeypatch):
    """RAY_ACTORS of two workers with the tiny model."""
    monkeypatch.setitem(sys.modules, "ray", fake_ray.module())
    # A worker loads the pack for itself; here it has it, and a second one would register its operators again.
    monkeypatch.setattr(actors_module, "_pack_function", lambda: call_pack)
    workers = [Worker(load_tiny(), dict(ONE_BY_ONE)) for _ in range(2)]
    actors = [fake_ray.Actor(f"GPU {number}", worker, log) for number, worker in enumerate(workers, start=1)]
    yield {"workers": actors}
    for actor in actors:
        actor.close()


def accelerate(ray_actors, schedule=WHOLE, **plan):
    handle = ReportHandle()
    return accelerate_workers(ray_actors, make_plan(schedule, **(plan or {"budget": 0.5})), handle), handle


def run(ray_actors, **changes):
    """Samples as raylight's node does; returns the latents of every worker."""
    futures = [worker.common_ksampler.remote(**changes) for worker in ray_actors["workers"]]
    return [fake_ray.get(future)[0]["samples"] for future in futures]


def subjects(ray_actors):
    return [actor.subject for actor in ray_actors["workers"]]


def left_behind(ray_actors):
    left = []
    for worker in subjects(ray_actors):
        options = worker.model.model_options.get("transformer_options", {})
        left += [key for key in options if "astraea" in str(key)]
        left += [kind for kind, keys in worker.model.wrappers.items() if not keys or "astraea" in keys]
    return left


def settle(ray_actors):
    """Waits until every call that was submitted is done."""
    for actor in ray_actors["workers"]:
        fake_ray.get(actor.get_parallel_dict.remote())
