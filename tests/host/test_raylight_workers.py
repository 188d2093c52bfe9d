"""raylight's real workers and sampler nodes, on CPU processes. Opt-in: it needs Ray, xFuser and a copy of raylight.

    ASTRAEA_RAYLIGHT=<raylight's folder> <a Python with ComfyUI's packages, ray, xfuser==0.4.5 and yunchang> \
        tests/run_pytest.py -c tests/pytest.ini --rootdir=tests tests/host/test_raylight_workers.py
"""

from __future__ import annotations

import importlib

import comfy.model_management
import comfy.samplers
import comfy.sd
import pytest
import torch
from by_shard import select_by_shard
from raylight_workers_kit import (
    MODEL,
    PLANS,
    RUN,
    SHAPE,
    VACE,
    Division,
    accelerate,
    assert_close,
    bytes_of,
    cluster,
    dense,
    here,
    left_behind,
    model_file,
    on_each,
    run,
    sent,
    two,
)
from sampling import LONG, PROMPT, TOKENS, WHOLE, accelerated, conditioning, last
from sampling import sample as sample_here
from sparse_kit import SMALL

from astraea.engine.report import ReportHandle
from astraea.engine.sparse.plan import SparsePlan
from astraea.host.raylight.workers import attend_sparsely_in_workers
from astraea.host.sampling.sparse import attend_sparsely


def test_dense_runs_agree(two, here, dense):
    first, second = on_each(two)
    assert torch.equal(first, second)
    assert torch.equal(first, dense)
    assert_close(dense, sample_here(here, shape=SHAPE, **RUN))


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m_sde"])
@pytest.mark.parametrize("name", PLANS)
def test_whole_steps(two, here, cluster, name, sampler):
    schedule, plan = PLANS[name]
    fast, handle = accelerate(two, schedule, **plan)
    cluster.count_traffic()
    first, second = on_each(fast, sampler=sampler)
    assert torch.equal(first, second)
    assert sent(cluster.traffic()) == [bytes_of(last(handle), 2)] * 2
    model, alone = accelerated(here, schedule, **plan)
    assert_close(first, sample_here(model, shape=SHAPE, sampler=sampler, **RUN))
    assert [call.kind for call in last(handle).calls] == [call.kind for call in last(alone).calls]
    assert last(handle).devices == "2 GPUs, sequence 2"
    assert not left_behind(cluster)


def test_half_the_steps_send_half_the_bytes(two, cluster):
    cluster.count_traffic()
    run(two)
    whole = sent(cluster.traffic())
    fast, handle = accelerate(two, WHOLE, budget=0.5)
    cluster.count_traffic()
    run(fast)
    assert last(handle).computed_share == 0.5
    assert [2 * each for each in sent(cluster.traffic())] == whole


def test_token_steps(two, here, cluster, monkeypatch):
    fast, handle = accelerate(two, TOKENS, budget=0.5)
    cluster.count_traffic()
    first, second = on_each(fast)
    assert sent(cluster.traffic()) == [bytes_of(last(handle), 2)] * 2
    assert torch.equal(first, second)
    select_by_shard(monkeypatch, 2)
    model, alone = accelerated(here, TOKENS, budget=0.5)
    assert_close(first, sample_here(model, shape=SHAPE, **RUN))
    assert [call.kind for call in last(handle).calls] == [call.kind for call in last(alone).calls]
    assert [call.computed * 2 for call in last(handle).calls] == [call.computed for call in last(alone).calls]
    assert not left_behind(cluster)


def test_on_changed_removed(two, dense):
    fast, _ = accelerate(two, WHOLE, budget=0.5)
    half = run(fast)
    assert not torch.equal(half, dense)
    again, handle = accelerate(fast, WHOLE, budget=0.3)  # a second node: the last plan, once
    third = run(again)
    assert not torch.equal(third, half)
    assert len(handle.reports) == 1
    assert torch.equal(run(fast), half)
    assert torch.equal(run(two), dense), "without the node"
    full, _ = accelerate(two, WHOLE, budget=1.0)
    assert torch.equal(run(full), dense)


def test_custom_sampling(two, here):
    """raylight's guiders carry the workers into the workers."""
    nodes = importlib.import_module("raylight.comfy_extra_dist.nodes_custom_sampler")
    sigmas = comfy.samplers.calculate_sigmas(here.get_model_object("model_sampling"), "simple", 8)
    fast, handle = accelerate(two, WHOLE, budget=0.5)
    guider = nodes._make_ray_guider(fast, "cfg", positive=RUN["positive"], negative=RUN["negative"], cfg=RUN["cfg"])
    node = next(kind for kind in vars(nodes).values() if getattr(kind, "FUNCTION", "") == "ray_sample")
    output, _, actors = node().ray_sample(
        True, 0, guider, comfy.samplers.sampler_object("euler"), sigmas, {"samples": torch.zeros(SHAPE)}
    )
    assert torch.equal(output["samples"], run(fast))
    assert actors is fast
    assert len(handle.reports) == 2


def test_sparse_attention(two, here, cluster, dense):
    """Behind the exchange each GPU has all keys of its heads. Routing at a fixed density concerns a head alone."""
    plan, handle = SparsePlan(density=0.4, choice="routing", limit=0.0, **SMALL), ReportHandle()
    sparse = attend_sparsely_in_workers(two, plan, handle)
    first, second = on_each(sparse)
    assert torch.equal(first, second)
    alone = ReportHandle()
    expected = sample_here(attend_sparsely(here, plan, alone), shape=SHAPE, **RUN)
    assert last(handle).sparse["calls"] == last(alone).sparse["calls"] > 0
    assert_close(first, expected)
    assert not torch.equal(first, dense)
    both, report = accelerate(sparse, WHOLE, budget=0.5)
    run(both)
    assert last(report).computed_share == 0.5
    assert last(report).sparse["calls"] > 0
    assert not left_behind(cluster)
    assert torch.equal(run(two), dense)


def test_sparse_attention_of_tokens_that_do_not_divide(two, here, cluster):
    """raylight fills the last part up; the video keeps its grid all the same."""
    plan, handle, alone = SparsePlan(density=0.5, choice="routing", limit=0.0, **SMALL), ReportHandle(), ReportHandle()
    # 765 tokens: the tile with the last of them, at which all look for the filling's sake, is one of about a hundred.
    case = {"latent": torch.zeros(1, 16, 3, 30, 34), "steps": 4}
    first, second = on_each(attend_sparsely_in_workers(two, plan, handle), **case)
    assert torch.equal(first, second)
    sample_here(attend_sparsely(here, plan, alone), **{**RUN, **case})
    sparse, one = last(handle).sparse, last(alone).sparse
    assert sparse["calls"] == one["calls"] > 0
    assert sparse["computed_share"] == pytest.approx(one["computed_share"], abs=0.06)


def test_a_wan_model_with_control(cluster, two, model_file, monkeypatch):
    """Of VACE, raylight shards its own blocks, too; their results are added between the others."""
    vace = {"vace_frames": [torch.randn(1, 32, 3, 16, 16, generator=torch.Generator().manual_seed(1))]}
    vace |= {"vace_mask": [torch.ones(1, 64, 3, 16, 16)], "vace_strength": [1.0]}
    case = {"positive": conditioning(PROMPT, **vace), "negative": conditioning(LONG, **vace)}
    actors = cluster.load(two, VACE)
    here = comfy.sd.load_diffusion_model(str(model_file.parent / VACE))
    assert_close(run(actors, **case), sample_here(here, shape=SHAPE, **{**RUN, **case}))
    fast, handle = accelerate(actors, TOKENS, budget=0.5)
    first, second = on_each(fast, **case)
    assert torch.equal(first, second)
    assert {call.kind for call in last(handle).calls} == {"full", "token"}
    select_by_shard(monkeypatch, 2)
    model, _ = accelerated(here, TOKENS, budget=0.5)
    assert_close(first, sample_here(model, shape=SHAPE, **{**RUN, **case}))
    cluster.load(actors, MODEL)


@pytest.mark.parametrize("division", [Division(ulysses=4), Division(ulysses=2, cfg=2)], ids=["sequence", "with cfg"])
def test_four_workers(cluster, model_file, here, monkeypatch, division):
    cluster.end_workers()
    four = cluster.load(cluster.start(4, division), MODEL)
    # cfg needs both conditionings in one call; a refit over few tokens would enlarge what rounding differs by.
    case = {"negative": conditioning(PROMPT.replace("red", "blue")), "latent": torch.zeros(1, 16, 3, 32, 32)}
    dense = on_each(four, **case)
    assert all(torch.equal(each, dense[0]) for each in dense)
    assert_close(dense[0], sample_here(here, **{**RUN, **case}))
    for name, (schedule, plan) in {**PLANS, "token steps": (TOKENS, {"budget": 0.5})}.items():
        fast, handle = accelerate(four, schedule, **plan)
        results = on_each(fast, **case)
        assert all(torch.equal(each, results[0]) for each in results), name
        with monkeypatch.context() as patch:
            if division.cfg == 1:
                select_by_shard(patch, 4)
            options = {"cache": "none"} if division.cfg > 1 and name == "token steps" else {}
            model, _ = accelerated(here, schedule, **plan, **options)
            expected = sample_here(model, **{**RUN, **case})
        assert_close(results[0], expected)
    assert last(handle).devices == ("4 GPUs, sequence 4" if division.cfg == 1 else "4 GPUs, sequence 2 × cfg 2")
    kinds = {call.kind for call in last(handle).calls}
    assert kinds == ({"full", "token"} if division.cfg == 1 else {"full", "reuse"})
    assert torch.equal(on_each(four, **case)[3], dense[0])
    assert not left_behind(cluster)
