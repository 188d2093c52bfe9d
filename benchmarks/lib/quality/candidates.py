"""The candidates that `quality.py` compares: bundled schedules, controls, step caches of the host.

Import after the host has been started.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from astraea.schedules import DEFAULT_FORECAST, Schedule, pick
from astraea.tiny.training.testbeds import Testbed

from ..host.environment import digest
from ..host.harness import Job, accelerated
from .schedule_shapes import even_steps, patterned
from .settings import Table
from .step_caches import STEP_CACHES
from .variants import AS_SHIPPED, LINEAR, SECOND_ORDER, Variant

ANCHOR_PATTERNS = ((0.05, 0.05, 0.9), (0.1, 0.3, 0.8))
MIXED_PATTERNS = ((0.0, 0.0, 0.7), (0.0, 0.5))
PAPER_OVERHEAD = 0.03  # cost of a token step beyond its tokens, at the size of Wan 2.1 1.3B
THRESHOLDS = {
    "whole": {
        "EasyCache": (0.03, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0),
        "EasyCache without the copy": (0.05,),
        "LazyCache": (0.1, 0.2, 0.4),
    },
    "main": {"EasyCache": (0.05, 0.1, 0.3, 0.8, 2.0)},
}


def separate_negative(testbed: Testbed) -> torch.Tensor:
    """The negative context, one empty word longer than the prompts'.

    That is the same to the model, but the host cannot join the two into one call: EasyCache of ComfyUI 0.3.64 adds
    wrong rows in joined calls.
    """
    empty = testbed.context("")
    return torch.cat([empty, empty[:1]])[None]


def jobs(testbed: Testbed, table: Table, pairs: int, seed: int) -> list[Job]:
    """The prompt–seed pairs: the prompts repeatedly, each pair with its own seed."""
    negative = separate_negative(testbed)
    return [
        Job(
            testbed.latent_shape,
            testbed.context(prompt)[None],
            negative,
            seed=seed + number,
            steps=table.steps,
            cfg=table.cfg,
            sampler=table.sampler,
            scheduler=table.scheduler,
        )
        for number, prompt in enumerate(itertools.islice(itertools.cycle(testbed.prompts), pairs))
    ]


@dataclass(frozen=True)
class Candidate:
    """One way to sample faster. build: MODEL → MODEL and the handle of its reports.

    kind: "default", "control" or the name of a step cache; family: its name without the budget or threshold;
    budget: requested mean budget; fingerprint: changes with the content.
    """

    family: str
    kind: str
    build: Callable[[Any], tuple[Any, Any]]
    setting: float
    budget: float | None = None
    about: str = ""
    fingerprint: str = ""
    variant: Variant = AS_SHIPPED

    @property
    def name(self) -> str:
        return f"{self.family} {self.setting:g}"

    @property
    def timed(self) -> bool:
        """True if its speed is compared by the clock: it is then run several times."""
        return self.kind != "control"


def planned(
    family: str, kind: str, schedule: Schedule, budget: float, *, exact: bool = True, variant: Variant = AS_SHIPPED
) -> Candidate:
    """A schedule under the node. exact: its steps as they are; otherwise the budget is requested, as a user does."""
    requested = None if exact else budget
    about = f"schedule '{schedule.name}', mode {schedule.mode}"
    forecast = [] if schedule.forecast == DEFAULT_FORECAST else [vars(schedule.forecast)]
    content = json.dumps([family, schedule.points, schedule.mode, requested, "auto", *forecast]).encode()

    def build(model: Any) -> tuple[Any, Any]:
        return accelerated(model, schedule, budget=requested)

    return Candidate(family, kind, build, budget, budget, about, digest([content]), variant)


def bundled(budgets: Sequence[float], table: Table) -> Iterator[Candidate]:
    """The schedules that the node takes for these budgets in such runs."""
    for budget in budgets:
        picked = pick(budget, "wan", steps=table.steps, guidance=table.cfg)
        yield planned("bundled", "default", picked, budget, exact=False)


def step_skipping_controls(budget: float, sigmas: Sequence[float], wide: bool) -> Iterator[Candidate]:
    """Evenly spaced computed steps, with each estimate of the skipped ones."""
    estimates: list[tuple[str, str, Variant]] = [
        ("whole steps, hold", "hold", AS_SHIPPED),
        ("whole steps, linear forecast", "forecast", LINEAR),
        ("whole steps, corrected", "default", AS_SHIPPED),
    ]
    if wide:
        estimates += [("whole steps, damped forecast", "forecast", AS_SHIPPED)]
        estimates += [("whole steps, second-order forecast", "forecast", SECOND_ORDER)]
    for family, mode, variant in estimates:
        schedule = even_steps("even steps", budget, sigmas, mode=mode)
        yield planned(family, "control", schedule, budget, variant=variant)


def token_control(
    family: str, pattern: Sequence[float], budget: float, sigmas: Sequence[float], mode: str = "default"
) -> Candidate:
    return planned(family, "control", patterned("pattern", pattern, budget, sigmas, mode=mode), budget)


def token_controls(budget: float, sigmas: Sequence[float], wide: bool) -> Iterator[Candidate]:
    """The budget spent on some tokens of every step, or of most."""
    modes = {"default": "scaled refit", "paper": "paper"}
    if wide:
        modes |= {"forecast": "forecast", "hold": "hold", "refit": "refit", "random": "random tokens"}
    for mode, title in modes.items():
        yield token_control(f"uniform, {title}", (budget,), budget, sigmas, mode)
    for pattern in MIXED_PATTERNS if wide else MIXED_PATTERNS[:1]:
        yield token_control(f"mixed {_joined(pattern)}", pattern, budget, sigmas)
    if not wide:
        return
    for pattern in ANCHOR_PATTERNS:
        for mode in ("default", "refit", "forecast"):
            yield token_control(f"anchors {_joined(pattern)}, {modes[mode]}", pattern, budget, sigmas, mode)


def _joined(pattern: Sequence[float]) -> str:
    return " ".join(f"{part:g}" for part in pattern)


def below_the_lowest(budgets: Sequence[float], sigmas: Sequence[float], wide: bool) -> Iterator[Candidate]:
    """Points at less than the lowest budget, for comparing at equal cost there.

    The published method costs more at equal tokens. Bundled schedules leave a part of a budget unspent that is no whole
    number of steps: the strongest controls are measured at the part they spend, too.
    """
    lowest, steps = min(budgets), len(sigmas)
    cheaper = round(lowest - PAPER_OVERHEAD, 3)
    yield token_control("uniform, paper", (cheaper,), cheaper, sigmas, "paper")
    if not math.isclose(lowest * steps, round(lowest * steps)):
        spent = math.floor(lowest * steps) / steps
        yield from step_skipping_controls(spent, sigmas, wide)
        yield from token_controls(spent, sigmas, wide=False)


def step_cache(name: str, threshold: float) -> Candidate:
    """A step cache of the host, through its own node with its default start and end."""

    def build(model: Any) -> tuple[Any, Any]:
        return STEP_CACHES[name](model, threshold)

    about = f"comfy_extras.nodes_easycache, threshold {threshold:g}"
    return Candidate(name, name, build, threshold, None, about, digest([name.encode(), str(threshold).encode()]))


def candidates(table: Table, sigmas: Sequence[float]) -> list[Candidate]:
    """All candidates of a table. sigmas: the run's noise levels without the final 0.

    "main": the bundled schedules, EasyCache and the strongest controls; "whole": the whole space.
    """
    wide = table.space == "whole"
    thresholds = THRESHOLDS[table.space]
    caches = [step_cache(name, threshold) for name, listed in thresholds.items() for threshold in listed]
    controls = [
        control
        for budget in table.budgets
        for made in (step_skipping_controls, token_controls)
        for control in made(budget, sigmas, wide)
    ]
    return [*bundled(table.budgets, table), *caches, *controls, *below_the_lowest(table.budgets, sigmas, wide)]
