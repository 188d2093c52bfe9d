"""The ways to sample faster that `quality.py` compares: bundled defaults, controls, step caches of the host, variants.

Import after the host has been started.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from drawn import Shape, schedule_of
from environment import digest
from harness import Job, accelerated
from quality_ideas import IDEAS
from quality_tables import Table
from quality_variants import AS_SHIPPED, LINEAR, REUSE_VARIANTS, SECOND_ORDER, Variant
from step_caches import STEP_CACHES
from token_variants import TOKEN_VARIANTS

from astraea.schedules import DEFAULT_FORECAST, Schedule, pick
from astraea.tiny.training.testbeds import TESTBEDS, Testbed

ANCHOR_PATTERNS = ((0.05, 0.05, 0.9), (0.1, 0.3, 0.8))
MIXED_PATTERNS = ((0.0, 0.0, 0.7), (0.0, 0.5))
PAPER_BELOW = 0.03  # what a token step costs beyond its tokens, at the size of Wan 2.1 1.3B
THRESHOLDS = {
    "whole": {
        "EasyCache": (0.03, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0),
        "EasyCache without the copy": (0.05,),
        "LazyCache": (0.1, 0.2, 0.4),
    },
    "main": {"EasyCache": (0.05, 0.1, 0.3, 0.8, 2.0)},
}


def jobs(testbed: Testbed, table: Table, pairs: int, seed: int) -> list[Job]:
    """The prompt–seed pairs: the prompts over and over, every pair with a seed of its own.

    The negative context has one empty word more than the prompt's has words. To the model that is the same, but the
    host cannot join the two into one call: EasyCache of ComfyUI 0.3.64 adds wrong rows in joined calls.
    """
    empty = testbed.context("")
    negative = torch.cat([empty, empty[:1]])[None]
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

    kind: "default", "control" or the name of a step cache; family: what it has in common with the same way at another
    budget or threshold; budget: mean budget asked for; fingerprint: changes with the content.
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
        """Whether its speed is compared by the clock, so that it is run several times."""
        return self.kind != "control"


def planned(
    family: str,
    kind: str,
    schedule: Schedule,
    budget: float,
    *,
    exact: bool = True,
    variant: Variant = AS_SHIPPED,
    cache: str = "auto",
) -> Candidate:
    """A schedule under the node. exact: its steps as they are; else the budget is asked for, as a user does."""
    question_of = None if exact else budget
    about = f"schedule '{schedule.name}', mode {schedule.mode}"
    content = json.dumps([family, schedule.points, schedule.mode, question_of, cache, *_otherwise(schedule)]).encode()

    def build(model: Any) -> tuple[Any, Any]:
        return accelerated(model, schedule, budget=question_of, cache=cache)

    return Candidate(family, kind, build, budget, budget, about, digest([content]), variant)


def _otherwise(schedule: Schedule) -> list[dict[str, Any]]:
    """The way to forecast where it is not the standard one."""
    return [] if schedule.forecast == DEFAULT_FORECAST else [vars(schedule.forecast)]


def drawn(
    shape: Shape, budget: float, sigmas: Sequence[float], family: str, variant: Variant = AS_SHIPPED
) -> Candidate:
    return planned(family, "control", schedule_of(shape, budget, sigmas, "drawn"), budget, variant=variant)


def bundled(budgets: Sequence[float], table: Table) -> Iterator[Candidate]:
    """What the node does when it is asked for the budget, in such runs."""
    for budget in budgets:
        picked = pick(budget, "wan", steps=table.steps, guidance=table.cfg)
        yield planned("bundled", "default", picked, budget, exact=False)


def whole_step_controls(budget: float, sigmas: Sequence[float], wide: bool) -> Iterator[Candidate]:
    """Whole steps evenly spaced, each estimated in every way."""
    ways: list[tuple[str, str, Variant]] = [
        ("whole steps, hold", "hold", AS_SHIPPED),
        ("whole steps, linear forecast", "forecast", LINEAR),
        ("whole steps, corrected", "default", AS_SHIPPED),
    ]
    if wide:
        ways += [("whole steps, damped forecast", "forecast", AS_SHIPPED)]
        ways += [("whole steps, second-order forecast", "forecast", SECOND_ORDER)]
    for family, mode, variant in ways:
        yield drawn(Shape(1, mode=mode), budget, sigmas, family, variant)


def token_controls(budget: float, sigmas: Sequence[float], wide: bool) -> Iterator[Candidate]:
    """The budget on some tokens of every step, or of most."""
    modes = {"default": "scaled refit", "paper": "paper"}
    if wide:
        modes |= {"forecast": "forecast", "hold": "hold", "refit": "refit", "random": "random tokens"}
    for mode, title in modes.items():
        yield drawn(Shape(1, (budget,), mode=mode), budget, sigmas, f"uniform, {title}")
    mixed = MIXED_PATTERNS if wide else MIXED_PATTERNS[:1]
    for pattern in mixed:
        yield drawn(Shape(1, pattern), budget, sigmas, f"mixed {rhythm_of(*pattern)}")
    if not wide:
        return
    for pattern in ANCHOR_PATTERNS:
        for mode in ("default", "refit", "forecast"):
            title = f"anchors {rhythm_of(*pattern)}, {modes[mode]}"
            yield drawn(Shape(1, pattern, mode=mode), budget, sigmas, title)


def below_the_lowest(budgets: Sequence[float], sigmas: Sequence[float], wide: bool) -> Iterator[Candidate]:
    """Points at less than the lowest budget, for comparing at equal cost there.

    The published method costs more at equal tokens. Of a budget that does not come to whole steps the bundled schedules
    leave a part unspent: the strongest controls are measured at what they spend, too.
    """
    lowest, steps = min(budgets), len(sigmas)
    cheaper = round(lowest - PAPER_BELOW, 3)
    yield drawn(Shape(1, (cheaper,), mode="paper"), cheaper, sigmas, "uniform, paper")
    if not math.isclose(lowest * steps, round(lowest * steps)):
        spent = math.floor(lowest * steps) / steps
        yield from whole_step_controls(spent, sigmas, wide)
        yield from token_controls(spent, sigmas, wide=False)


def step_cache(name: str, threshold: float) -> Candidate:
    """A step cache of the host, through its own node with its default start and end."""

    def build(model: Any) -> tuple[Any, Any]:
        return STEP_CACHES[name](model, threshold)

    about = f"comfy_extras.nodes_easycache, threshold {threshold:g}"
    return Candidate(name, name, build, threshold, None, about, digest([name.encode(), str(threshold).encode()]))


@dataclass(frozen=True)
class Ablated:
    """One row of an ablation at every budget: what differs from the baseline."""

    name: str
    shape: Shape
    variant: Variant = AS_SHIPPED
    cache: str = "auto"


def ablated(baseline: Shape, variants: Sequence[Variant], *others: Ablated) -> list[Ablated]:
    rows = [Ablated(variant.name, baseline, variant) for variant in variants]
    return [Ablated("as shipped", baseline), *rows, *others]


def rhythm_of(*pattern: float) -> str:
    return " ".join(f"{part:g}" for part in pattern)


UNIFORM = Shape(1, (0.5,))
WHOLE_STEPS = Shape(1, tail=2)
PROBES = ((0.05, 0.05, 0.9), (0.1, 0.1, 0.9), (0.2, 0.2, 0.9), (0.3, 0.3, 0.9))
ABLATIONS = {
    "ablation-tokens": ablated(
        UNIFORM,
        TOKEN_VARIANTS,
        Ablated("kept in 8 bits", UNIFORM, cache="fp8"),
        *(Ablated(f"first full steps: {head}", dataclasses.replace(UNIFORM, head=head)) for head in (2, 3, 4)),
        *(Ablated(f"anchors and probes {rhythm_of(*probe)}", Shape(1, probe)) for probe in PROBES),
    ),
    "ablation-reuse": ablated(
        WHOLE_STEPS,
        REUSE_VARIANTS,
        *(Ablated(f"first full steps: {head}", dataclasses.replace(WHOLE_STEPS, head=head)) for head in (2, 3)),
        *(Ablated(f"last full steps: {tail}", dataclasses.replace(WHOLE_STEPS, tail=tail)) for tail in (1, 3, 4)),
        *(Ablated(f"lean: {warp:g}", dataclasses.replace(WHOLE_STEPS, warp=warp)) for warp in (-0.125, 0.125, 0.25)),
    ),
    "ideas": ablated(WHOLE_STEPS, IDEAS),
}


def ablation(rows: Sequence[Ablated], budgets: Sequence[float], sigmas: Sequence[float]) -> Iterator[Candidate]:
    for budget in budgets:
        for row in rows:
            schedule = schedule_of(row.shape, budget, sigmas, "drawn")
            yield planned(row.name, "control", schedule, budget, variant=row.variant, cache=row.cache)


def candidates(table: Table, sigmas: Sequence[float]) -> list[Candidate]:
    """All of a table. sigmas: the run's noise levels without the final 0.

    One of ABLATIONS: variants of one shape; "main": the bundled schedules, EasyCache and the strongest controls;
    "whole": the whole space.
    """
    if table.is_ablation:
        return list(ablation(ABLATIONS[table.space], table.budgets, sigmas))
    wide = table.space == "whole"
    thresholds = THRESHOLDS[table.space]
    caches = [step_cache(name, threshold) for name, listed in thresholds.items() for threshold in listed]
    controls = [
        control
        for budget in table.budgets
        for made in (whole_step_controls, token_controls)
        for control in made(budget, sigmas, wide)
    ]
    return [*bundled(table.budgets, table), *caches, *controls, *below_the_lowest(table.budgets, sigmas, wide)]


def testbed_of(table: Table) -> Testbed:
    return TESTBEDS[table.testbed]
