"""The Raylight nodes with a stand-in for Ray: rounds of plans on, sample, plans off."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace

import fake_ray
import pack_nodes
import pytest
import torch
from raylight_kit import ONE_BY_ONE, RUN, accelerate, left_behind, log, ray_actors, run, settle, subjects
from sampling import WHOLE, accelerated, last, sample
from sparse_kit import SMALL

from astraea.engine.report import ReportHandle
from astraea.engine.sparse.plan import SparsePlan
from astraea.errors import InputError
from astraea.host.raylight.workers import attend_sparsely_in_workers
from astraea.host.sampling.sparse import attend_sparsely
from astraea.schedules import flow_sigmas, uniform


def test_a_run_is_that_of_one_gpu_and_leaves_nothing_behind(ray_actors, load_tiny, log):
    dense = run(ray_actors)
    models = [worker.model for worker in subjects(ray_actors)]
    fast, handle = accelerate(ray_actors)
    assert handle.last is None
    results = run(fast)
    model, alone = accelerated(load_tiny(), WHOLE, budget=0.5)
    expected = sample(model, **RUN)
    assert all(torch.equal(result, expected) for result in results)
    assert last(handle).finished
    assert [call.kind for call in last(handle).calls] == [call.kind for call in last(alone).calls]
    assert last(handle).devices == "2 GPUs, clips 2"
    assert not left_behind(ray_actors)
    assert [worker.model for worker in subjects(ray_actors)] == models, "the worker's model itself is used"
    assert torch.equal(run(ray_actors)[0], dense[0])
    assert len(handle.reports) == 1, "a run without the node reports nothing"


def test_no_worker_samples_before_all_have_the_plan(ray_actors, log):
    fast, _ = accelerate(ray_actors)
    log.clear()
    run(fast)
    settle(ray_actors)
    first_sampling = next(index for index, (_, call) in enumerate(log) if call == "common_ksampler")
    assert sum(call == "begin" for _, call in log[:first_sampling]) == 2
    for gpu in ("GPU 1", "GPU 2"):
        own = [call for who, call in log if who == gpu]
        assert own[own.index("begin") :][:3] == ["begin", "common_ksampler", "end"]


def test_a_second_node_replaces_the_first(ray_actors, load_tiny):
    fast, first = accelerate(ray_actors, budget=0.5)
    faster, second = accelerate(fast, budget=0.3)
    result = run(faster)[0]
    model, _ = accelerated(load_tiny(), WHOLE, budget=0.3)
    assert torch.equal(result, sample(model, **RUN))
    assert first.last is None
    assert second.last is not None
    assert not left_behind(ray_actors)


def test_runs_follow_each_other(ray_actors):
    fast, handle = accelerate(ray_actors)
    first, again, other = run(fast)[0], run(fast)[0], run(fast, seed=1)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(handle.reports) == 3


def test_everything_else_is_the_workers_own(ray_actors):
    fast, _ = accelerate(ray_actors)
    proxy, actor = fast["workers"][0], ray_actors["workers"][0]
    assert fake_ray.get(proxy.get_parallel_dict.remote()) == ONE_BY_ONE
    assert pickle.loads(pickle.dumps(proxy)) == "actor GPU 1", "raylight's guiders carry workers into workers"
    assert proxy == actor
    assert len({proxy, actor}) == 1
    with pytest.raises(AttributeError):
        getattr(proxy, "no_such_method")  # noqa: B009


def test_full_budget_is_bit_identical(ray_actors):
    dense = run(ray_actors)[0]
    fast, handle = accelerate(ray_actors, budget=1.0)
    assert torch.equal(run(fast)[0], dense)
    assert last(handle).computed_share == 1.0


@pytest.mark.parametrize(
    "value", [None, {}, {"workers": []}, "workers", 3, {"workers": "abc"}, {"workers": [None]}, {"workers": (1,)}]
)
def test_what_is_no_ray_actors_is_refused(value):
    with pytest.raises(InputError, match="'ray_actors' takes the output of one of raylight's model loaders"):
        accelerate(value)


def test_pipefusion_passes_through(ray_actors):
    for worker in subjects(ray_actors):
        worker.settings["pipefusion_enabled"] = True
    dense = run(ray_actors)[0]
    fast, handle = accelerate(ray_actors)
    assert torch.equal(run(fast)[0], dense)
    assert last(handle).notes == ["passed through: raylight's PipeFusion carries results from step to step itself"]


def test_the_node(ray_actors, load_tiny):
    node = pack_nodes.pack_nodes()["AstraeaAccelerateRaylight"]
    output = node.execute(ray_actors, schedule="auto", budget=0.5, target_speedup=0.0)
    fast, handle = output.result
    result = run(fast)[0]
    accelerate_node = pack_nodes.pack_nodes()["AstraeaAccelerate"]
    model, _ = accelerate_node.execute(load_tiny(), schedule="auto", budget=0.5, target_speedup=0.0).result
    assert torch.equal(result, sample(model, **RUN))
    assert last(handle).computed_share == 0.5


def test_mode_paper_is_refused(ray_actors):

    node = pack_nodes.pack_nodes()["AstraeaAccelerateRaylight"]
    paper = replace(uniform("mine", 0.5, flow_sigmas(10)), mode="paper")
    with pytest.raises(InputError, match="Mode 'paper' works on one GPU only"):
        node.execute(ray_actors, schedule="auto", budget=0.5, target_speedup=0.0, astraea_schedule=paper)


def test_sparse_attention_where_each_gpu_has_all_tokens(ray_actors, load_tiny):
    plan = SparsePlan(density=0.4, **SMALL)
    handle = ReportHandle()
    result = run(attend_sparsely_in_workers(ray_actors, plan, handle))[0]
    alone = ReportHandle()
    assert torch.equal(result, sample(attend_sparsely(load_tiny(), plan, alone), **RUN))
    assert last(handle).sparse["calls"] == last(alone).sparse["calls"] > 0
    assert not left_behind(ray_actors)


@pytest.mark.parametrize("order", ["accelerate first", "sparse first"])
def test_both_nodes_on_one_set_of_workers(ray_actors, load_tiny, order):
    sparse, handle = SparsePlan(density=0.4, **SMALL), ReportHandle()
    if order == "accelerate first":
        fast, report = accelerate(ray_actors)
        fast = attend_sparsely_in_workers(fast, sparse, handle)
    else:
        fast, report = accelerate(attend_sparsely_in_workers(ray_actors, sparse, handle))
    result = run(fast)[0]
    model, _ = accelerated(attend_sparsely(load_tiny(), sparse, ReportHandle()), WHOLE, budget=0.5)
    assert torch.equal(result, sample(model, **RUN))
    assert last(report).computed_share == 0.5
    assert last(report).sparse["calls"] > 0
    assert last(handle).sparse["calls"] == last(report).sparse["calls"]
    assert not left_behind(ray_actors)


def test_the_sparse_node(ray_actors):
    dense = run(ray_actors)[0]
    node = pack_nodes.pack_nodes()["AstraeaSparseAttentionRaylight"]
    fast, handle = node.execute(ray_actors, density=0.3).result
    assert torch.equal(run(fast)[0], dense)
    assert last(handle).summary() == "every attention call was dense"


def test_nothing_of_ray_is_loaded():
    assert not [name for name in sys.modules if name.split(".")[0] in ("ray", "raylight", "xfuser")]
