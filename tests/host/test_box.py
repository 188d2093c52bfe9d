"""Models whose blocks are not known: whole steps are skipped as with an adapter, to the bit; the report says why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.supported_models_base
import pytest
import torch
import zoo
from comfy.controlnet import ControlBase
from sampling import PROMPT, accelerated, conditioning, last, sample
from torch import Tensor, nn

from astraea.engine.planning.plan import make_plan
from astraea.engine.report import ReportHandle
from astraea.host.sampling.levels import level_of
from astraea.host.sampling.patch_model import accelerate, family_of
from astraea.models import describe_box


@pytest.fixture
def as_box(monkeypatch):
    """`as_box()`: from now on every model is one whose blocks are not known."""

    def install():
        for module in ("architectures", "wrappers"):
            monkeypatch.setattr(
                f"astraea.host.sampling.{module}.describe_on_host", lambda model: describe_box("wan", "no adapter")
            )

    return install


def automatic(model: Any, budget: float = 0.5, **run: Any) -> tuple[Tensor, Any]:
    handle = ReportHandle()
    return sample(accelerate(model, make_plan(None, budget=budget), handle), **run), last(handle)


@pytest.mark.parametrize("sampler", ["euler", "heun", "res_multistep"])
@pytest.mark.parametrize(("budget", "steps", "cfg"), [(0.5, 20, 1.0), (0.4, 30, 3.0), (0.3, 12, 6.0), (1.0, 8, 3.0)])
def test_whole_steps_of_a_box_are_those_of_its_runner(load_tiny, as_box, budget, steps, cfg, sampler):
    model, run = load_tiny(), {"steps": steps, "cfg": cfg, "sampler": sampler, "shape": (1, 16, 3, 8, 8)}
    expected, known = automatic(model, budget, **run)
    as_box()
    result, report = automatic(model, budget, **run)
    assert torch.equal(result, expected)
    assert [call.kind for call in report.calls] == [call.kind for call in known.calls]
    assert report.schedule == known.schedule


def test_partial_steps_of_a_box_become_whole_ones(load_tiny, as_box):
    as_box()
    fast, handle = accelerated(load_tiny(), budget=0.5)
    assert sample(fast, steps=12).isfinite().all()
    report = last(handle)
    assert {call.kind for call in report.calls} == {"full", "reuse"}
    assert report.cache_policy == "whole steps"
    assert "whole steps; no adapter" in report.summary()


def test_mode_paper_of_a_box_runs_in_full(load_tiny, as_box):
    as_box()
    fast, handle = accelerated(load_tiny(), budget=0.5, mode="paper")
    expected = sample(load_tiny(), steps=6)
    assert torch.equal(sample(fast, steps=6), expected)
    assert "works inside the model's blocks, which it cannot here" in last(handle).summary()


def test_target_speedup_of_a_box_counts_its_calls(load_tiny, as_box):
    as_box()
    handle = ReportHandle()
    sample(accelerate(load_tiny(), make_plan(None, target_speedup=2.0), handle), steps=20)
    report = last(handle)
    assert report.ideal_speedup == pytest.approx(1.0 / report.computed_share)
    assert 2.0 <= report.ideal_speedup < 2.3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_run_too_short_to_reuse_anything_is_left_alone(load_tiny, steps):
    model = load_tiny()
    result, report = automatic(model, 0.4, steps=steps)
    assert torch.equal(result, sample(model, steps=steps))
    assert f"a run of {steps} steps leaves nothing to reuse" in report.summary()


def test_run_of_three_steps_skips_one_where_a_schedule_is_named(load_tiny):
    fast, handle = accelerated(load_tiny(), budget=0.7)
    sample(fast, steps=3)
    assert last(handle).computed_share < 1.0


# --- a model that nobody knows ----------------------------------------------------------------------------------


class StrangeBlock(nn.Module):
    """Writes into two of its three streams, and takes arguments by names of its own."""

    def __init__(self, width: int):
        super().__init__()
        self.mix, self.merge = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, here: Tensor, there: Tensor, *, weather: dict) -> tuple[Tensor, Tensor, Tensor]:
        here += torch.tanh(self.mix(here)) * weather["wind"][:, None, None]
        there *= 1.0 + 0.1 * torch.tanh(self.merge(here)).mean(1, keepdim=True)
        return here, there, here - there.mean(1, keepdim=True)


class StrangeModel(nn.Module):
    def __init__(self, width: int = 16, blocks: int = 3, **_: Any):
        super().__init__()
        self.dtype = torch.float32
        self.enter, self.leave = nn.Linear(4, width), nn.Linear(width, 4)
        self.strange_blocks = nn.ModuleList(StrangeBlock(width) for _ in range(blocks))

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, transformer_options: Any = None, **_: Any
    ) -> Tensor:
        assert context is not None
        here, there = self.enter(x.flatten(2).transpose(1, 2)), context.clone()
        for block in self.strange_blocks:
            here, there, rest = block(here, there, weather={"wind": torch.cos(timesteps / 1000.0)})
            here = here + 0.1 * rest
        return self.leave(here).transpose(1, 2).reshape(x.shape)


class StrangeConfig(comfy.supported_models_base.BASE):
    unet_config: dict = {}  # noqa: RUF012 - as the host's
    latent_format = comfy.latent_formats.SD15
    sampling_settings: dict = {"shift": 3.0}  # noqa: RUF012 - as the host's


class StrangeBase(comfy.model_base.BaseModel):
    def __init__(self, config: Any):
        super().__init__(config, comfy.model_base.ModelType.FLOW, unet_model=StrangeModel)

    def extra_conds(self, **conditions: Any) -> dict:
        found = super().extra_conds(**conditions)
        return {**found, "c_crossattn": comfy.conds.CONDRegular(conditions["cross_attn"])}


def strange() -> zoo.Sampled:
    torch.manual_seed(0)
    config = StrangeConfig({})
    config.set_inference_dtype(torch.float32, None)
    device = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(StrangeBase(config), device, device)
    positive = [[torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1)), {}]]
    negative = [[torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2)), {}]]
    return zoo.Sampled(model, positive, negative, {"samples": torch.zeros(1, 4, 8, 8)})


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "res_multistep"])
def test_unknown_model_takes_whole_steps_and_says_why_not_more(sampler):
    sampled, handle = strange(), ReportHandle()
    expected = zoo.sample(sampled, steps=20, sampler=sampler)
    full = accelerate(sampled.model, make_plan(None, budget=1.0), ReportHandle())
    assert torch.equal(zoo.sample(sampled, full, steps=20, sampler=sampler), expected)
    fast = accelerate(sampled.model, make_plan(None, budget=0.5), handle)
    result, report = zoo.sample(sampled, fast, steps=20, sampler=sampler), last(handle)
    assert torch.isfinite(result).all()
    assert not torch.equal(result, expected)
    assert report.counts() == {"full": 10, "token": 0, "reuse": 10, "answered": 0}
    assert report.family == "strangemodel"
    assert "whole steps; token steps need an adapter for StrangeModel" in report.summary()
    assert torch.equal(zoo.sample(sampled, steps=20, sampler=sampler), expected)


def test_search_schedules_of_an_unknown_model_are_for_it_alone():
    assert family_of(strange().model) == ("strangemodel", "")


# --- refused ----------------------------------------------------------------------------------------------------


def test_model_that_keeps_what_it_made_is_refused(monkeypatch, caplog):
    monkeypatch.setattr(StrangeModel, "init_kv_caches", lambda self: None, raising=False)
    sampled, handle = strange(), ReportHandle()
    fast = accelerate(sampled.model, make_plan(None, budget=0.5), handle)
    assert torch.equal(zoo.sample(sampled, fast, steps=8), zoo.sample(sampled, steps=8))
    assert "StrangeModel makes frames one after another" in last(handle).notes[0]
    assert "passed through: " in caplog.text


def bank_of_heads() -> SimpleNamespace:
    """An output layer whose Linear holds the weights of several."""
    head = nn.Linear(8, 4)
    head.out_features = 2
    return SimpleNamespace(video_out=head)


@pytest.mark.parametrize(("part", "value"), [("time_r_in", nn.Identity()), ("final_layer", bank_of_heads())])
def test_prediction_that_rests_on_the_next_noise_level_is_never_reused(part, value, monkeypatch):
    monkeypatch.setattr(StrangeModel, part, value, raising=False)
    sampled, handle = strange(), ReportHandle()
    fast = accelerate(sampled.model, make_plan(None, budget=0.5), handle)
    assert torch.equal(zoo.sample(sampled, fast, steps=8), zoo.sample(sampled, steps=8))
    assert "8 of 8 calls ran in full: the model predicts a mean on the way" in last(handle).summary()


# --- noise levels of models that are no flow -----------------------------------------------------------------------


def test_noise_levels_are_shares_of_noise():
    from comfy.model_sampling import CONST, EDM, EPS, V_PREDICTION

    assert level_of(CONST())(0.3) == 0.3
    for kind in (EPS, V_PREDICTION, EDM):
        level = level_of(kind())
        assert [level(sigma) for sigma in (0.0, 1.0, 9.0)] == [0.0, 0.5, 0.9]
        assert 0.99 < level(700.0) < 1.0


@pytest.mark.parametrize("name", ["Stable Diffusion 1.5", "Cosmos 1"])
def test_forecasts_of_models_with_large_sigmas_beat_held_predictions(name):
    """Above a sigma of 1 all time functions would take everything for the start."""
    sampled = zoo.MODELS[name].build()
    expected = zoo.sample(sampled, steps=20)

    def error(mode: str) -> float:
        fast = accelerate(sampled.model, make_plan(None, budget=0.5, mode=mode), ReportHandle())
        return float((zoo.sample(sampled, fast, steps=20) - expected).square().mean())

    assert error("default") < error("hold")


def test_controlnets_are_told(load_tiny):
    """They run at skipped steps, too: the host calls them before it asks for the model."""

    control = ControlBase()
    control.get_control = lambda *arguments: {"input": [], "middle": [], "output": []}
    control.get_instance_for_device = lambda device: control
    _, report = automatic(load_tiny(), steps=8, positive=conditioning(PROMPT, control=control), cfg=1.0)
    assert "ControlNets run at skipped steps, too" in report.summary()
