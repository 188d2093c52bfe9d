"""The runs whose results `same_results.py` compares: one table of plain data. Imports nothing of pack or host.

Values are those of the nodes' widgets and of schedule files, which saved workflows hold as well: they stay valid when
the code behind them is reorganised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

SMALL, TRAINED, ODD = (1, 16, 3, 12, 12), (1, 16, 6, 16, 16), (1, 16, 2, 9, 15)
SHIFT = 8.0


@dataclass(frozen=True)
class Sampled:
    """One sampler run of one accelerated model.

    model: "easy" (the demo model), "hard" or "hard bf16", the same in bfloat16; shift: for ComfyUI's ModelSamplingSD3,
    None leaves the model's own; accelerate: inputs of Astraea Accelerate, None runs the model without it;
    inline: text for Astraea Schedule Inline, whose schedule is linked to Astraea Accelerate.
    two_calls: the positive prompt is longer than the negative one, so that ComfyUI cannot join them in one model call.
    masked: the latents hold a video of which the first frame is kept by a noise mask.
    """

    name: str
    accelerate: Mapping[str, Any] | None = field(default_factory=dict)
    inline: str = ""
    model: str = "easy"
    steps: int = 20
    cfg: float = 3.0
    sampler: str = "euler"
    scheduler: str = "simple"
    shape: tuple[int, ...] = SMALL
    two_calls: bool = False
    masked: bool = False
    denoise: float = 1.0
    shift: float | None = None
    seed: int = 1


@dataclass(frozen=True)
class Experts:
    """Two accelerated models, easy then hard, of which the first samples `sigmas[:split + 1]`, the second the rest."""

    name: str
    accelerate: Mapping[str, Any] = field(default_factory=dict)
    inline: str = ""
    steps: int = 20
    split: int = 10
    cfg: float = 3.0
    sampler: str = "euler"
    shape: tuple[int, ...] = SMALL
    seed: int = 1


@dataclass(frozen=True)
class Searched:
    """A run of Astraea Search, then one sampler run with the schedule that it returns.

    effort: the beginning of the widget's option, "quick" or "good".
    """

    name: str
    effort: str
    steps: int
    cfg: float
    shape: tuple[int, ...]
    budgets: str = "0.5, 0.3"
    cases: int = 2
    sampler: str = "euler"
    seed: int = 1


Run = Sampled | Experts | Searched


def schedule_text(budgets: Sequence[float], mode: str = "default", **forecast: Any) -> str:
    """A schedule file with these budgets on the noise levels of the scheduler `simple`."""
    steps = len(budgets)
    times = [1.0 - step / steps for step in range(steps)]
    sigmas = [round(SHIFT * time / (1.0 + (SHIFT - 1.0) * time), 6) for time in times]
    return json.dumps(
        {
            "format": "astraea-schedule",
            "version": 1,
            "name": f"inline {mode}",
            "mode": mode,
            **({"forecast": forecast} if forecast else {}),
            "points": [list(point) for point in zip(sigmas, budgets, strict=True)],
        }
    )


def _partial(steps: int) -> list[float]:
    """Budgets of full, partial and skipped steps."""
    return [1.0, 1.0, *islice(cycle([0.5, 0.25, 0.0, 0.6, 0.0, 1.0, 0.35]), steps - 3), 1.0]


def _skipping(steps: int) -> list[float]:
    """Budgets of full and skipped steps."""
    return [1.0, *islice(cycle([0.0, 1.0, 0.0, 0.0, 1.0]), steps - 2), 1.0]


def _auto(budget: float, cfg: float, steps: int, model: str) -> Sampled:
    name = f"auto {budget:.2f}, cfg {cfg:g}, {steps} steps, {model}"
    return Sampled(name, {"budget": budget}, model=model, cfg=cfg, steps=steps)


AUTO = (
    _auto(0.25, 1.0, 20, "hard"),
    _auto(0.25, 3.0, 8, "easy"),
    _auto(0.25, 3.0, 30, "easy"),
    _auto(0.25, 6.0, 30, "hard"),
    _auto(0.30, 1.0, 30, "easy"),
    _auto(0.30, 3.0, 12, "hard"),
    _auto(0.30, 3.0, 30, "hard"),
    _auto(0.30, 6.0, 20, "easy"),
    _auto(0.40, 1.0, 12, "easy"),
    _auto(0.40, 3.0, 20, "hard"),
    _auto(0.40, 3.0, 30, "easy"),
    _auto(0.40, 6.0, 30, "easy"),
    _auto(0.50, 1.0, 8, "hard"),
    _auto(0.50, 3.0, 30, "hard"),
    _auto(0.50, 6.0, 12, "easy"),
    _auto(0.50, 6.0, 50, "hard"),
    _auto(0.70, 1.0, 30, "hard"),
    _auto(0.70, 3.0, 8, "easy"),
    _auto(0.70, 3.0, 20, "easy"),
    _auto(0.70, 6.0, 30, "hard"),
    Sampled("auto, target speed-up 2", {"target_speedup": 2.0}),
    Sampled("auto, target speed-up 3.5, hard", {"target_speedup": 3.5}, model="hard", steps=30),
    Sampled("auto 0.40, beta scheduler", {"budget": 0.4}, scheduler="beta"),
    Sampled("auto 0.40, denoise 0.6", {"budget": 0.4}, masked=True, denoise=0.6),
    Sampled("budget 1", {"budget": 1.0}, steps=8),
)

NAMED = (
    Sampled("any-0.25-8-steps-cfg-3", {"schedule": "any-0.25-8-steps-cfg-3"}, steps=8),
    Sampled("any-0.25-30-steps-cfg-6", {"schedule": "any-0.25-30-steps-cfg-6"}, steps=30, cfg=6.0, model="hard"),
    Sampled("any-0.30, other steps", {"schedule": "any-0.30"}, steps=17),
    Sampled("any-0.50", {"schedule": "any-0.50"}, steps=30),
    Sampled("any-0.70-30-steps-cfg-6", {"schedule": "any-0.70-30-steps-cfg-6"}, steps=30, cfg=6.0),
    Sampled("wan-0.40", {"schedule": "wan-0.40"}, steps=30),
    Sampled("wan-0.40, few steps", {"schedule": "wan-0.40"}, steps=7, model="hard"),
    Sampled("wan-0.25, target speed-up 2.5", {"schedule": "wan-0.25", "target_speedup": 2.5}, steps=30),
)

PAPER = {"mode": "paper", "attention": "reference"}
MODES = (
    Sampled("mode default", {"budget": 0.4, "mode": "default"}),
    Sampled("mode paper", PAPER, schedule_text(_partial(12)), steps=12),
    Sampled("mode paper, fp8", PAPER | {"cache": "fp8"}, schedule_text(_partial(12)), model="hard", steps=12),
    Sampled("mode paper, fp8-host", PAPER | {"cache": "fp8-host"}, schedule_text(_partial(12)), cfg=1.0, steps=12),
    Sampled("mode paper, without a schedule", PAPER | {"budget": 0.4}, steps=12),
    Sampled("mode paper, without a cache", PAPER | {"cache": "none"}, steps=8),
    Sampled("mode random", {"mode": "random"}, schedule_text(_partial(15)), steps=15),
    Sampled("mode uniform", {"budget": 0.4, "mode": "uniform"}),
    Sampled("mode uniform, budget 0.7, hard", {"budget": 0.7, "mode": "uniform"}, model="hard", steps=12),
    Sampled("mode whole-step hold", {"budget": 0.4, "mode": "whole-step hold"}),
    Sampled("mode whole-step forecast", {"budget": 0.4, "mode": "whole-step forecast"}),
)

CURVED = {"along": "power-0.75", "corrected_along": "root", "expected": 0.4, "bend": 0.5, "last_response": 0.6}
TRUSTING = {"along": "log-snr", "corrected_along": "log-snr", "expected": 1.0, "bend": 0.0}
INLINE = (
    *(
        Sampled(f"partial steps, {mode}, {cache}", {"cache": cache}, schedule_text(_partial(15), mode), steps=15)
        for mode, cache in [
            ("default", "full"),
            ("default", "fp8"),
            ("default", "fp8-host"),
            ("default", "none"),
            ("refit", "full"),
            ("refit", "fp8"),
            ("hold", "full"),
            ("hold", "fp8-host"),
            ("random", "full"),
            ("random", "fp8"),
            ("forecast", "full"),
            ("forecast", "fp8"),
            ("forecast", "fp8-host"),
        ]
    ),
    Sampled("partial steps, paper, full", {"attention": "reference"}, schedule_text(_partial(12), "paper"), steps=12),
    Sampled("partial steps, cfg 1, hard", {}, schedule_text(_partial(15)), model="hard", cfg=1.0, steps=15),
    Sampled("partial steps, other steps", {}, schedule_text(_partial(15)), steps=21),
    Sampled("partial steps, target speed-up 3", {"target_speedup": 3.0}, schedule_text(_partial(15)), steps=15),
    Sampled("partial steps, own attention", {"attention": "reference"}, schedule_text(_partial(15)), steps=15),
    Sampled("partial steps, forecast settings", {}, schedule_text(_partial(15), **CURVED), steps=15),
    Sampled("skipped steps, hold", {}, schedule_text(_skipping(15), "hold"), steps=15),
    Sampled("skipped steps, forecast", {}, schedule_text(_skipping(15), "forecast"), steps=15),
    Sampled("skipped steps, curved forecast", {}, schedule_text(_skipping(20), **CURVED)),
    Sampled("skipped steps, trusting forecast", {}, schedule_text(_skipping(20), **TRUSTING), model="hard"),
)

NAMES = ("euler", "heun", "dpmpp_2m", "res_multistep", "uni_pc", "euler_ancestral", "dpm_fast", "lcm")
SAMPLERS = (
    *(Sampled(f"{name}, cfg 1, easy", {"budget": 0.5}, sampler=name, cfg=1.0, steps=12) for name in NAMES),
    *(Sampled(f"{name}, cfg 3, hard", {"budget": 0.5}, sampler=name, model="hard", steps=12) for name in NAMES),
    *(
        Sampled(f"{name}, partial steps", {}, schedule_text(_partial(12)), sampler=name, steps=12)
        for name in ("heun", "dpmpp_2m", "uni_pc")
    ),
)

CONDITIONINGS = (
    Sampled("cond and uncond in two calls", {"budget": 0.4}, two_calls=True),
    Sampled("two calls, partial steps", {}, schedule_text(_partial(15)), two_calls=True, steps=15),
    Sampled("two calls, multistep, cfg 6", {"budget": 0.4}, two_calls=True, cfg=6.0, sampler="res_multistep"),
    Sampled("batch of 2", {"budget": 0.4}, shape=(2, *SMALL[1:])),
    Sampled("batch of 2, partial steps", {}, schedule_text(_partial(12)), shape=(2, *SMALL[1:]), steps=12),
    Sampled("first frame kept", {"budget": 0.4}, masked=True),
    Sampled("first frame kept, partial steps", {}, schedule_text(_partial(12)), masked=True, steps=12),
)

MODELS = (
    Sampled("bf16", {"budget": 0.4}, model="hard bf16"),
    Sampled("bf16, partial steps", {}, schedule_text(_partial(12)), model="hard bf16", steps=12),
    Sampled("bf16, partial steps, fp8", {"cache": "fp8"}, schedule_text(_partial(12)), model="hard bf16", steps=12),
    Sampled("bf16, mode paper", PAPER, schedule_text(_partial(12)), model="hard bf16", steps=12),
    Sampled("shift 3", {"budget": 0.4}, shift=3.0),
    Sampled("shift 3, partial steps", {}, schedule_text(_partial(12)), shift=3.0, steps=12),
    Sampled("trained size", {"budget": 0.4}, shape=TRAINED),
    Sampled("trained size, partial steps", {}, schedule_text(_partial(15)), shape=TRAINED, steps=15),
    Sampled("trained size, mode paper", PAPER, schedule_text(_partial(12)), shape=TRAINED, steps=12),
    Sampled("odd size", {"budget": 0.4}, shape=ODD),
    Sampled("odd size, partial steps", {}, schedule_text(_partial(12)), shape=ODD, steps=12),
)

EXPERTS = (
    Experts("two experts", {"budget": 0.5}),
    Experts("two experts, partial steps", {}, schedule_text(_partial(20))),
    Experts("two experts, uni_pc, cfg 1", {"budget": 0.4}, sampler="uni_pc", cfg=1.0),
)

SEARCHES = (
    Searched("search, quick", effort="quick", steps=12, cfg=1.0, shape=(1, 16, 3, 8, 8)),
    Searched("search, good, cfg 3", effort="good", steps=10, cfg=3.0, shape=(1, 16, 3, 8, 8), sampler="uni_pc"),
    Searched("search, good, small clips first", effort="good", steps=8, cfg=1.0, shape=(1, 16, 5, 16, 16)),
)

DENSE = (
    Sampled("no acceleration, easy", None, steps=12),
    Sampled("no acceleration, hard", None, model="hard", steps=12, sampler="uni_pc"),
)

RUNS: tuple[Run, ...] = (
    *DENSE,
    *AUTO,
    *NAMED,
    *MODES,
    *INLINE,
    *SAMPLERS,
    *CONDITIONINGS,
    *MODELS,
    *EXPERTS,
    *SEARCHES,
)

# A subset that takes some seconds, one run of each kind.
SHORT = (
    "no acceleration, easy",
    "auto 0.25, cfg 3, 8 steps, easy",
    "auto 0.30, cfg 3, 12 steps, hard",
    "auto 0.40, cfg 3, 30 steps, easy",
    "auto 0.50, cfg 6, 12 steps, easy",
    "auto, target speed-up 2",
    "wan-0.40",
    "mode paper",
    "mode random",
    "mode whole-step forecast",
    "partial steps, default, full",
    "partial steps, refit, fp8",
    "partial steps, forecast, fp8-host",
    "skipped steps, curved forecast",
    "heun, cfg 3, hard",
    "dpmpp_2m, cfg 3, hard",
    "uni_pc, partial steps",
    "euler_ancestral, cfg 1, easy",
    "cond and uncond in two calls",
    "batch of 2, partial steps",
    "first frame kept",
    "bf16, partial steps, fp8",
    "shift 3",
    "odd size, partial steps",
    "two experts",
    "search, quick",
)
