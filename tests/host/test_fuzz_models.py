"""Whole runs of the host's models, drawn at random: model, weights, plan, sampler, steps, guidance, patches, masks.

Whatever is drawn, a run that the plain model survives raises nothing, is finite, leaves nothing, reports what ran, and
at budget 1 is the plain run to the bit. See `fuzzing` for long runs and for running one case again.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import comfy.sample
import comfy.samplers
import kit
import torch
import zoo
from fuzzing import Generator, run_cases, seeds, some_schedule
from test_nothing_left_behind import live_state, traces

from astraea.engine.planning.modes import MODES
from astraea.engine.planning.plan import Plan, make_plan
from astraea.engine.report import KINDS, Report, ReportHandle
from astraea.host.sampling.patch_model import accelerate

CASES = 24
# Not drawn: these choose their steps while they run, or take too long on a small model.
SLOW = {"dpm_adaptive", "ar_video"}
SAMPLERS = [name for name in comfy.samplers.KSampler.SAMPLERS if name not in SLOW]
WEIGHTS = [(torch.float32, None)] * 4 + [(torch.bfloat16, None), (torch.float8_e4m3fn, torch.float32)]


@cache
def present() -> list[str]:
    """Names of the models that the running ComfyUI has."""
    found = []
    for name, entry in zoo.MODELS.items():
        try:
            entry.build()
        except zoo.NotOnThisHost:
            continue
        found.append(name)
    return found


@dataclass
class Drawn:
    """A case: what is sampled, and how."""

    name: str
    sampled: zoo.Sampled
    sampler: str
    scheduler: str
    steps: int
    cfg: float
    seed: int
    options: dict[str, Any] = field(default_factory=dict)

    def sample(self, model: Any) -> torch.Tensor:
        """All values of the result in a row. As the sampler node, but with a part of the steps where drawn."""
        latent = comfy.sample.fix_empty_latent_channels(model, self.sampled.latent["samples"])
        return kit.joined(
            comfy.sample.sample(
                model,
                comfy.sample.prepare_noise(latent, self.seed),
                self.steps,
                self.cfg,
                self.sampler,
                self.scheduler,
                self.sampled.positive,
                self.sampled.negative,
                latent,
                noise_mask=self.sampled.latent.get("noise_mask"),
                disable_pbar=True,
                seed=self.seed,
                **self.options,
            )
        )


def some_case(rng: Generator) -> Drawn:
    name = rng.choice(present())
    with zoo.weights_in(*rng.choice(WEIGHTS)):
        sampled = zoo.MODELS[name].build()
    sampled.model = sampled.model.clone()
    if rng.random() < 0.3:
        sampled.negative = [[sampled.positive[0][0] * 0.5, sampled.positive[0][1]]]  # one call for both
    if rng.random() < 0.1:
        sampled.positive = sampled.positive * 2
    if rng.random() < 0.15:
        sampled.model.set_model_sampler_cfg_function(lambda arguments: arguments["cond"])
    if rng.random() < 0.15:
        sampled.model.set_model_attn1_patch(unchanged)
    samples = sampled.latent["samples"]
    options: dict[str, Any] = {}
    if rng.random() < 0.1 and not getattr(samples, "is_nested", False):
        sampled.latent = {**sampled.latent, "samples": torch.cat([samples] * 2)}
    if rng.random() < 0.2:
        options["denoise"] = rng.choice([0.3, 0.6, 0.95])
    elif rng.random() < 0.2:
        options |= {"start_step": rng.randrange(0, 3), "last_step": rng.randrange(3, 9)}
        options["force_full_denoise"] = rng.random() < 0.5
    return Drawn(
        name,
        sampled,
        rng.choice(["euler", "res_multistep", "uni_pc", rng.choice(SAMPLERS)]),
        rng.choice(["simple", "normal", "beta", "karras"]),
        rng.choice([1, 2, 3, 4, 6, 8, 12]),
        rng.choice([1.0, 1.0, 3.0, 6.0]),
        rng.randrange(2**31),
        options,
    )


def unchanged(first: Any, *others: Any, **options: Any) -> Any:
    """A patch inside blocks that changes nothing, in each of the forms in which models call one."""
    if isinstance(first, dict):
        return first["x"]
    if not options:
        return first, *others[:2]
    return dict(zip("qkv", (first, *others), strict=False))


def some_plan(rng: Generator) -> Plan:
    budget = rng.choice([0.1, 0.3, 0.5, 0.8, 1.0, rng.uniform(0.1, 1.0)])
    target = rng.choice([1.0, 1.5, 3.0, 10.0]) if rng.random() < 0.15 else None
    if rng.random() < 0.4:
        return make_plan(None, budget=None if target else budget, target_speedup=target)
    schedule = kit.TOKENS if rng.random() < 0.5 else some_schedule(rng)
    cache_policy = rng.choice(["auto", "auto", "fp8", "fp8-host", "none"])
    mode = rng.choice([None, *MODES])
    if target is None and rng.random() < 0.3:
        return make_plan(schedule, mode=mode, cache=cache_policy)
    return make_plan(schedule, mode=mode, budget=None if target else budget, target_speedup=target, cache=cache_policy)


def check(rng: Generator, impossible: list[str]) -> None:
    """impossible: gets the reason where ComfyUI itself cannot build or run the plain model."""
    with torch.inference_mode():
        try:
            case = some_case(rng)
            expected = case.sample(case.sampled.model)
        except Exception as error:  # which error that is, is the host's affair
            impossible.append(repr(error)[:200])
            return
        plan = some_plan(rng)
        before, handle = traces(case.sampled.model), ReportHandle()
        fast = accelerate(case.sampled.model, plan, handle)
        result = case.sample(fast)
        assert result.isfinite().all() or not expected.isfinite().all(), f"{case.name}: not finite"
        if plan.is_full:
            same = torch.equal(result, expected) or not expected.isfinite().all()
            assert same, f"{case.name}: not the plain run at budget 1"
        assert traces(case.sampled.model) == before, f"{case.name}: the model is not as it was"
        del fast
        gc.collect()
        assert not live_state(), f"{case.name}: something of the run is left"
        if handle.last is not None:
            check_report(handle.last, case, plan)
        again = case.sample(case.sampled.model)
        assert torch.equal(again, expected) or not expected.isfinite().all(), f"{case.name}: the plain model changed"


def check_report(report: Report, case: Drawn, plan: Plan) -> None:
    assert {call.kind for call in report.calls} <= set(KINDS)
    assert all(0 <= call.computed <= call.tokens for call in report.calls)
    if plan.is_full:
        assert report.computed_share == 1.0
    assert report.finished or not report.calls
    assert report.summary()


def test_runs_drawn_at_random():
    impossible: list[str] = []
    run_cases("models", CASES, lambda rng: check(rng, impossible))
    assert len(impossible) <= max(1, 0.1 * len(seeds(CASES))), impossible
