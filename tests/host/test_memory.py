"""Memory: fp8 storage, announced against allocated bytes, room asked of the host, stepping down when it is short."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from sampling import TOKENS, WHOLE, accelerated, last, psnr, random_wan, sample

from astraea.engine.state import residual_store as store_module
from astraea.schedules import flow_sigmas, periodic

SIZE = {"shape": (1, 16, 4, 16, 16), "steps": 12}


def test_fp8_store_is_close_to_the_full_one_at_a_fraction_of_its_bytes(load_tiny):
    model = load_tiny()
    dense = sample(model, **SIZE)
    full, full_handle = accelerated(model, budget=0.5, cache="full")
    small, small_handle = accelerated(model, budget=0.5, cache="fp8")
    loss = psnr(dense, sample(full, **SIZE)) - psnr(dense, sample(small, **SIZE))
    assert loss < 0.5
    assert last(small_handle).cache_policy == "fp8"
    # 1 byte a value against the model's 4 (2 in half precision, on a GPU), and a reference tensor per branch as it is.
    most = 0.4 if model.model.get_dtype() == torch.float32 else 0.6
    assert last(small_handle).cache_bytes < most * last(full_handle).cache_bytes


def test_fp8_in_host_memory_gives_the_same_result_as_on_the_device(load_tiny):
    model = load_tiny()
    on_device, in_host = (accelerated(model, budget=0.5, cache=policy)[0] for policy in ("fp8", "fp8-host"))
    assert torch.equal(sample(on_device), sample(in_host))


@pytest.mark.parametrize("cache", ["full", "fp8"])
@pytest.mark.parametrize("mode", ["default", "forecast", "paper"])
@pytest.mark.parametrize("schedule", ["tokens", "whole", "mixed"])
def test_announced_bytes_are_allocated(load_tiny, schedule, mode, cache):
    mixed = periodic("mixed", [0.0, 0.5], flow_sigmas(30))
    chosen = {"tokens": TOKENS, "whole": WHOLE, "mixed": mixed}[schedule]
    fast, handle = accelerated(load_tiny(), chosen, mode=mode, cache=cache)
    sample(fast, **{**SIZE, "steps": 30})
    report = last(handle)
    assert report.announced_bytes == pytest.approx(report.cache_bytes, rel=0.05)


def test_announced_bytes_with_a_reference_frame():
    model = random_wan(in_dim_ref_conv=16)
    extra = {"reference_latents": [torch.zeros(1, 16, 1, 8, 8)]}
    from sampling import PROMPT, conditioning

    fast, handle = accelerated(model, budget=0.5)
    sample(fast, positive=conditioning(PROMPT, **extra), negative=conditioning("", **extra))
    assert last(handle).announced_bytes == pytest.approx(last(handle).cache_bytes, rel=0.05)


def test_no_store_without_fractional_budgets(load_tiny):
    """Two latents per conditioning in all, whatever the model's size."""
    fast, handle = accelerated(load_tiny(), WHOLE)
    sample(fast, **{**SIZE, "steps": 30})
    rows, latent = 2, 16 * 4 * 16 * 16
    assert last(handle).cache_bytes == 2 * rows * latent * 4


def test_the_host_is_asked_for_room_before_the_model_is_loaded(load_tiny, monkeypatch):
    requested = []
    load = comfy.model_management.load_models_gpu

    def spy(models, memory_required=0, **options):
        requested.append(memory_required)
        return load(models, memory_required=memory_required, **options)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    model = load_tiny()
    sample(model, **SIZE)
    plain = max(requested)
    requested.clear()
    fast, handle = accelerated(model, budget=0.5)
    sample(fast, **SIZE)
    assert max(requested) - plain >= 0.9 * last(handle).announced_bytes


class Scarce:
    """Stands in for the store's constructor and refuses some policies, as a full device does."""

    def __init__(self, refused: set[str]):
        self.refused, self.requested, self.real = refused, [], store_module.ResidualStore

    def __call__(self, size, policy, dtype, device):
        self.requested.append(policy)
        if policy in self.refused:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return self.real(size, policy, dtype, device)


@pytest.mark.parametrize(
    ("refused", "settled"),
    [({"full"}, "fp8"), ({"full", "fp8"}, "fp8-host")],
    ids=["to fp8", "to CPU memory"],
)
def test_steps_down_when_an_allocation_fails(load_tiny, monkeypatch, refused, settled):
    model = load_tiny()
    expected = sample(accelerated(model, budget=0.5, cache=settled)[0])
    monkeypatch.setattr(store_module, "ResidualStore", Scarce(refused))
    fast, handle = accelerated(model, budget=0.5)
    assert torch.equal(expected, sample(fast))
    assert last(handle).cache_policy == settled
    assert any("no memory for the full store" in note for note in last(handle).notes)


def test_reuses_whole_steps_when_nothing_can_be_kept_per_block(load_tiny, monkeypatch):
    monkeypatch.setattr(store_module, "ResidualStore", Scarce({"full", "fp8", "fp8-host"}))
    model = load_tiny()
    fast, handle = accelerated(model, budget=0.5)
    dense, result = sample(model, **SIZE), sample(fast, **SIZE)
    report = last(handle)
    assert report.counts()["token"] == 0
    assert report.counts()["reuse"] > 0
    assert 0.4 <= report.computed_share <= 0.6
    assert psnr(dense, result) > 15.0
    assert any("whole steps are skipped" in note for note in report.notes)


def test_mode_paper_computes_everything_when_nothing_can_be_kept_per_block(load_tiny, monkeypatch):
    monkeypatch.setattr(store_module, "ResidualStore", Scarce({"full", "fp8", "fp8-host"}))
    model = load_tiny()
    fast, handle = accelerated(model, budget=0.5, mode="paper")
    dense, result = sample(model, **SIZE), sample(fast, **SIZE)
    report = last(handle)
    assert report.computed_share == 1.0
    assert torch.equal(dense, result)
    assert any("everything is computed" in note for note in report.notes)
    assert not any("whole steps are skipped" in note for note in report.notes)


def test_other_errors_of_an_allocation_are_not_swallowed(load_tiny, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("something else is wrong")

    monkeypatch.setattr(store_module, "ResidualStore", broken)
    with pytest.raises(RuntimeError, match="something else is wrong"):
        sample(accelerated(load_tiny(), budget=0.5)[0])
