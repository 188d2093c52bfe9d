"""The attention of token steps: the host's with the user's override, unless a backend was timed clearly faster."""

from __future__ import annotations

import gc
import weakref

import comfy.model_management
import pytest
import torch
from sampling import accelerated, last, psnr, sample

from astraea.engine.planning.plan import make_plan
from astraea.engine.run import Run
from astraea.host.sampling.attention import HOST_NAME, OVERRIDE, RunAttention
from astraea.kernels import DISPATCHER, attend_reference, autotune, autotune_cache, dispatch, selftest
from astraea.nodes.report_text import report_text
from astraea.schedules import flow_sigmas, periodic

SIGMAS = flow_sigmas(4)
DEVICE = comfy.model_management.get_torch_device().type
ON_CPU = DEVICE == "cpu"
OWN, NOT_HERE = ("cpu-tiles", "flash-attn-3") if ON_CPU else ("triton", "cpu-tiles")
# dB between two backends' results. In half precision sums differ more; that bound was never tested on a GPU.
CLOSE = 80.0 if ON_CPU else 45.0


@pytest.fixture(autouse=True)
def _no_choices_yet(monkeypatch, tmp_path):
    monkeypatch.setenv(autotune_cache.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.delenv(dispatch.ATTENTION_ENV, raising=False)
    monkeypatch.setattr(DISPATCHER, "_choices", {})
    monkeypatch.setattr(DISPATCHER, "_failed", {})


@pytest.fixture
def load_tiny(load_tiny):
    """The model in a dtype that the pack's own kernel for the device takes."""
    return lambda: load_tiny(torch.float32 if ON_CPU else torch.float16)


@pytest.fixture
def timed(monkeypatch):
    """`timed(own=…, others=…)`: given times instead of measured times; returns the backends of each timing."""

    def install(own, host=1.0, others=2.0):
        races = []

        def time_backends(backends, *tensors, **options):
            names = [backend.name for backend in backends]
            races.append(names)
            return {name: {OWN: own, HOST_NAME: host}.get(name, others) for name in names}

        monkeypatch.setattr(autotune, "time_backends", time_backends)
        return races

    return install


@pytest.fixture
def served(monkeypatch):
    """need_lse of each call that the pack's own backend computed, without those of the self-test."""
    backend, calls = DISPATCHER.named(OWN), []

    def run(q, k, v, **options):
        if k.shape[1] != selftest.KEYS:
            calls.append(options["need_lse"])
        return backend.run(q, k, v, **options)

    own = type(backend)(**{**vars(backend), "run": run})
    monkeypatch.setattr(DISPATCHER, "backends", tuple(own if b is backend else b for b in DISPATCHER.backends))
    return calls


def test_the_hosts_attention_is_used_where_no_backend_is_faster(load_tiny, timed, served):
    races = timed(own=0.97)
    expected = sample(accelerated(load_tiny(), attention="host")[0])
    assert not races
    fast, handle = accelerated(load_tiny())
    assert sample(fast).equal(expected)
    assert len(races) == 1
    assert {HOST_NAME, OWN} < set(races[0])
    if ON_CPU:
        assert {HOST_NAME, OWN, "cpu-flash", "cpu-onednn"} <= set(races[0])
        assert not {"cudnn", "flash", "efficient", "reference"} & set(races[0])
    assert last(handle).attention == HOST_NAME
    assert not served


def test_a_backend_that_was_timed_faster_is_used(load_tiny, timed, served):
    races = timed(own=0.5)
    expected = sample(accelerated(load_tiny(), attention="host")[0])
    fast, handle = accelerated(load_tiny())
    result = sample(fast)
    assert psnr(expected, result) > CLOSE
    assert last(handle).attention == f"'{OWN}', timed 2.00x as fast as {HOST_NAME}"
    token_calls = last(handle).counts()["token"]
    assert len(served) == token_calls * 8  # every block of every token step
    assert sample(fast).equal(result), "the second run must not differ from the one that decided"
    assert len(races) == 1


def test_attention_to_few_of_the_keys_is_the_hosts_and_decides_nothing(timed):
    """Such as that of each frame to its speech: timed, it would choose for the attention to all tokens."""
    races, tokens = timed(own=0.5), 512
    run = Run.of(make_plan(periodic("few", [0.5], SIGMAS)), [*SIGMAS, 0.0])
    attend = RunAttention("auto", run.writer).for_call({}, tokens)
    q, few, many = (torch.randn(1, n, 2, 64, device=DEVICE) for n in (64, 16, tokens))
    expected, _ = attend_reference(q, few, few)
    assert torch.allclose(attend(q, few, few)[0], expected, atol=1e-3)
    assert not races
    assert not run.report.attention
    attend(q, many, many)
    assert len(races) == 1


def test_the_time_of_timing_is_reported_once(load_tiny):
    fast, handle = accelerated(load_tiny())
    sample(fast)
    first = last(handle)
    assert 0.001 < first.tuning_seconds < first.model_seconds
    sample(fast)
    assert last(handle).tuning_seconds < 0.001
    first.tuning_seconds = 0.25
    assert "; 0.25 s of it timed this device's attention kernels, once" in report_text(first)


@pytest.mark.parametrize("preference", ["auto", "fast", OWN])
def test_an_override_of_the_user_is_always_called(load_tiny, timed, served, preference):
    races = timed(own=0.1)
    calls = []

    def override(function, *args, **kwargs):
        calls.append(args[0].shape[1])
        return function(*args, **kwargs)

    model = load_tiny()
    model.model_options["transformer_options"][OVERRIDE] = override
    fast, handle = accelerated(model, attention=preference)
    sample(fast)
    assert min(calls) < max(calls)  # selected rows, too
    assert not races
    assert not served
    assert last(handle).attention == "another node's, through ComfyUI"


def test_a_named_attention_is_used(load_tiny, served):
    fast, handle = accelerated(load_tiny(), attention=OWN)
    result = sample(fast)
    assert served
    assert last(handle).attention == f"'{OWN}', asked for"
    assert psnr(sample(accelerated(load_tiny(), attention="host")[0]), result) > CLOSE


def test_a_named_attention_that_cannot_run_here_is_replaced(load_tiny, timed, caplog):
    timed(own=2.0)
    fast, handle = accelerated(load_tiny(), attention=NOT_HERE)
    sample(fast)
    assert last(handle).attention == HOST_NAME
    assert f"runs on {'cuda' if ON_CPU else 'cpu'}, not on {DEVICE}" in caplog.text


def test_mode_paper_takes_its_log_sum_exp_from_the_kernels(load_tiny, served):
    results = {}
    for preference in (OWN, "reference"):
        fast, handle = accelerated(load_tiny(), mode="paper", attention=preference)
        results[preference] = sample(fast)
        assert last(handle).attention == f"'{preference}', with log-sum-exp"
    assert served
    assert all(served)
    # Rounding may choose another token here and there.
    assert psnr(results["reference"], results[OWN]) > min(60.0, CLOSE)


def test_mode_paper_needs_a_log_sum_exp_that_an_override_does_not_return(load_tiny, served):
    def override(function, *args, **kwargs):
        return function(*args, **kwargs)

    expected = sample(accelerated(load_tiny(), mode="paper", attention=OWN)[0])
    model = load_tiny()
    model.model_options["transformer_options"][OVERRIDE] = override
    fast, handle = accelerated(model, mode="paper", attention=OWN)
    assert sample(fast).equal(expected)
    assert all(served)
    assert last(handle).attention == f"'{OWN}', with log-sum-exp"


def test_a_backend_that_fails_while_sampling_is_replaced_and_the_run_continues(load_tiny, monkeypatch, caplog):
    backend = DISPATCHER.named(OWN)

    def frail(q, k, v, **options):
        if q.shape[1] < k.shape[1] and k.shape[1] == 64:
            raise RuntimeError("an illegal memory access")
        return backend.run(q, k, v, **options)

    own = type(backend)(**{**vars(backend), "run": frail})
    monkeypatch.setattr(DISPATCHER, "backends", tuple(own if b is backend else b for b in DISPATCHER.backends))
    result = sample(accelerated(load_tiny(), attention=OWN)[0])
    assert "an illegal memory access" in caplog.text
    assert caplog.text.count("an illegal memory access") <= 2  # when it failed, and why another is used after that
    assert psnr(sample(accelerated(load_tiny(), attention="host")[0]), result) > CLOSE


def test_choices_outlive_a_run_but_keep_nothing_of_it(load_tiny):
    class Something:
        pass

    model, something = load_tiny(), Something()
    model.model_options["transformer_options"]["of a call"] = something
    fast, _ = accelerated(model)
    sample(fast)
    assert DISPATCHER._choices
    gone = weakref.ref(something)
    del model, fast, something
    gc.collect()
    assert gone() is None


@pytest.mark.newest_host
@pytest.mark.parametrize("own", [0.5, 2.0], ids=["own", "host"])
def test_compiled_blocks_run_with_either(load_tiny, timed, own):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    timed(own=own)
    expected = sample(accelerated(load_tiny())[0])
    DISPATCHER._choices.clear()
    fast, handle = accelerated(load_tiny())
    compiled = fast.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    assert psnr(expected, sample(compiled)) > min(70.0, CLOSE)
    assert OWN in last(handle).attention if own < 1.0 else last(handle).attention == HOST_NAME
