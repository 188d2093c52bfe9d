"""ComfyUI's own MultiGPU CFG Split: one thread per device calls on one run. The second device is a second CPU key."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import comfy.model_management
import kit
import pytest
import torch
from sampling import LONG, TOKENS, WHOLE, accelerated, conditioning, last, sample
from sparse_kit import sparsely

from astraea.engine.planning.plan import make_plan
from astraea.engine.report import ReportHandle
from astraea.engine.run import Run
from astraea.host.sampling.attention import HOST_BACKEND, HOST_NAME, RunAttention
from astraea.host.sampling.patch_model import accelerate
from astraea.host.sampling.wrappers import apply_model
from astraea.kernels import DISPATCHER, Choice
from astraea.kernels.dispatch import Dispatcher
from astraea.schedules import flow_sigmas, periodic

multigpu = pytest.importorskip("comfy.multigpu", reason="this ComfyUI has no MultiGPU CFG Split")

DEVICES = [torch.device("cpu"), torch.device("cpu", 1)]
PLANS = {
    "budget 1": (WHOLE, {"budget": 1.0}),
    "whole steps at 0.5": (WHOLE, {"budget": 0.5}),
    "whole steps at 0.3": (WHOLE, {"budget": 0.3}),
    "token steps": (TOKENS, {"budget": 0.5}),
    "mode paper": (TOKENS, {"budget": 0.5, "mode": "paper"}),
    "mode random": (TOKENS, {"budget": 0.5, "mode": "random"}),
}
TOKEN_STEPS = ["token steps", "mode paper"]
# On one device, too, these make a call for each conditioning. Of Flux, partial steps become whole ones.
MODELS = [
    *((name, plan) for name in ("MiniMax-H3", "HunyuanVideo", "Flux") for plan in list(PLANS)[:2] + TOKEN_STEPS),
    *(
        (name, plan)
        for name in ("LTXV", "Wan 2.2 image to video", "HunyuanVideo 1.5", "Kandinsky 5", "Mochi")
        for plan in TOKEN_STEPS
    ),
    *(
        (name, TOKEN_STEPS[0])
        for name in (
            "Wan 2.2 5B image to video",
            "Wan 2.2 S2V",
            "Wan 2.2 Animate",
            "Wan 2.1 SCAIL-2",
            "Cosmos-Predict2 image to video",
        )
    ),
]
# Prompts of different lengths: one device, too, makes a call for each conditioning then.
RUN = {"negative": conditioning(LONG), "steps": 8, "shape": (1, 16, 3, 8, 8)}


@pytest.fixture
def split(load_tiny, monkeypatch):
    """`split(model)`: the MODEL behind the host's node, with two devices."""
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: list(DEVICES))
    nodes = pytest.importorskip("comfy_extras.nodes_multigpu")

    def behind(model):
        return nodes.MultiGPUCFGSplitNode.execute(model, 2).result[0]

    yield behind
    comfy.model_management.unload_all_models()  # while the second device is still known


@pytest.fixture
def threads(monkeypatch):
    """The names of the threads that called the model."""
    seen = set()
    run = apply_model.__globals__["_request"]

    def noticing(*args):
        seen.add(threading.current_thread().name)
        return run(*args)

    monkeypatch.setitem(apply_model.__globals__, "_request", noticing)
    return seen


@pytest.mark.parametrize("order", ["node before the split", "node behind the split"])
@pytest.mark.parametrize("name", PLANS)
def test_two_devices_give_the_bits_of_one(load_tiny, split, threads, name, order):
    schedule, plan = PLANS[name]
    model = load_tiny()
    alone, alone_handle = accelerated(model, schedule, **plan)
    expected = sample(alone, **RUN)
    assert len(threads) == 1
    threads.clear()
    if order == "node before the split":
        fast, handle = accelerated(model, schedule, **plan)
        fast = split(fast)
    else:
        fast, handle = accelerated(split(model), schedule, **plan)
    result = sample(fast, **RUN)
    assert len(threads) == 2, "the second device was not used"
    assert torch.equal(result, expected)
    report = last(handle)
    assert len(report.calls) == 16
    assert report.finished
    assert last(handle).announced_bytes * 2 == last(alone_handle).announced_bytes, "each device has room for its own"
    assert torch.equal(sample(model, **RUN), sample(load_tiny(), **RUN)), "the plain model has changed"


@pytest.mark.parametrize(("name", "plan"), MODELS)
def test_other_models_on_two_devices(split, threads, name, plan):
    schedule, options = PLANS[plan]
    sampled = kit.build(name)
    sampled.model.cached_patcher_init = (lambda: kit.build(name).model, ())
    expected, alone = kit.run(sampled, schedule=schedule, **options)
    threads.clear()
    result, report = kit.run(sampled, model=split(sampled.model), schedule=schedule, **options)
    assert len(threads) == 2, "the second device was not used"
    assert torch.equal(result, expected)
    assert sorted((call.step, call.kind, call.reason) for call in report.calls) == sorted(
        (call.step, call.kind, call.reason) for call in alone.calls
    )


@pytest.mark.parametrize("steps", [None, "whole steps at 0.5", "token steps"])
def test_sparse_attention_on_two_devices_gives_the_bits_of_one(load_tiny, split, threads, steps):
    """Alone, and with Accelerate."""
    run = RUN | {"steps": 5, "shape": (1, 16, 3, 12, 12)}
    results, figures = [], []
    for around in (lambda model: model, split):
        model, handle = sparsely(load_tiny(), limit=0.0)
        if steps is not None:
            schedule, plan = PLANS[steps]
            model, _ = accelerated(model, schedule, **plan)
        results.append(sample(around(model), **run))
        figures.append(last(handle).sparse)
    assert torch.equal(*results)
    one, two = figures
    assert one["calls"] == two["calls"] > 0
    assert one["choices"] == two["choices"]
    assert one["error"] == pytest.approx(two["error"])
    if steps is not None:
        assert len(threads) == 3, "the second device was not used"


@pytest.mark.parametrize("kinds", [("cpu", "meta"), ("cpu", "cpu")], ids=["two cards", "one card"])
def test_a_kernel_is_chosen_once_for_each_device(monkeypatch, kinds):
    running, at_once, chosen = [], [], []

    def choose(self, q, k, v, problem, preference="auto", host=None, **_):
        if host is None:
            return Choice(DISPATCHER.named("reference"), "asked for")
        running.append(1)
        at_once.append(len(running))
        time.sleep(0.1)
        running.pop()
        chosen.append(len(chosen))
        backend = DISPATCHER.named("reference") if len(chosen) > 1 else HOST_BACKEND
        return Choice(backend, "the fastest, timed", {HOST_NAME: 3.0, backend.name: 3.0 / len(chosen)}, measured=True)

    monkeypatch.setattr(Dispatcher, "choose", choose)
    sigmas = flow_sigmas(4)
    run = Run.of(make_plan(periodic("few", [0.5], sigmas)), [*sigmas, 0.0])
    attention, ready = RunAttention("auto", run.writer), threading.Barrier(2)
    q = torch.randn(1, 64, 2, 32)

    def call(kind):
        attend = attention.for_call({"sigmas": torch.ones(1, device=kind)}, 64)
        ready.wait()
        return [attend(q, q, q)[0] for _ in range(3)]

    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            list(pool.map(call, kinds))
    assert len(chosen) == len(set(kinds))
    assert set(at_once) == {1}
    assert run.report.tuning_seconds == pytest.approx(0.1 * len(chosen), abs=0.05)
    faster = f"'reference', timed 2.00x as fast as {HOST_NAME}"
    where = sorted(run.report.attention.replace(" on cpu", "").replace(" on meta", "").split("; "))
    assert where == ([faster, HOST_NAME] if len(chosen) == 2 else [HOST_NAME])


@pytest.mark.parametrize("what", ["interrupt", "error"])
def test_a_thread_that_fails_leaves_nothing_behind(load_tiny, split, what):
    model = load_tiny()
    expected = sample(model, **RUN)
    handle = ReportHandle()
    fast = accelerate(split(model), make_plan(TOKENS, budget=0.5), handle)
    sample(fast, **RUN)
    calls, on_second = [0], threading.Event()
    before = tensors()

    def fail(block):
        def forward(*args, **kwargs):
            calls[0] += 1
            if calls[0] > 3 and threading.current_thread() is not threading.main_thread():
                on_second.set()
                if what == "interrupt":
                    raise comfy.model_management.InterruptProcessingException
                raise RuntimeError("a failing block")
            return original(*args, **kwargs)

        original = block.forward
        block.forward = forward

    second = fast.get_additional_models_with_key("multigpu")[0].model.diffusion_model
    fail(second.blocks[1])
    with pytest.raises((comfy.model_management.InterruptProcessingException, RuntimeError)):
        sample(fast, **RUN)
    assert on_second.is_set()
    del second.blocks[1].forward
    for blocks in (second.blocks, model.model.diffusion_model.blocks):
        assert not any("forward" in vars(block) for block in blocks)
    assert not last(handle).finished
    gc.collect()
    assert tensors() <= before + 2, "tensors are left"
    assert torch.equal(sample(fast, **RUN), sample(fast, **RUN))
    assert torch.equal(sample(model, **RUN), expected)


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
