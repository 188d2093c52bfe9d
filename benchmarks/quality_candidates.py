"""Everything that `quality.py` compares: prompts, the bundled defaults, their controls, and ComfyUI's EasyCache.

Import after the host has been started.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from environment import digest
from harness import Job, accelerated

from astraea.errors import ScheduleError
from astraea.schedules import Schedule, pick, rhythm, uniform, whole_steps
from astraea.tiny.words import context_for

SHAPE = (1, 16, 6, 16, 16)
BUDGETS = (0.7, 0.5, 0.4, 0.3)
COUNT_KEY, COPY_KEY = "astraea_benchmark_count", "astraea_benchmark_copy"
THRESHOLDS = (0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
PROMPTS = (
    "a big red circle moving right over a blue ground",
    "a small yellow square moving up over a purple ground",
    "a big green triangle spinning over a white ground",
    "a small white ring moving left over a black ground",
    "a big cyan ring moving down over an orange ground",
    "a small orange triangle moving down over a green ground",
    "a big purple square standing over a yellow ground",
    "a small black circle moving right over a red ground",
)


def jobs(cfg: float, steps: int, pairs: int, seed: int) -> list[Job]:
    """The prompt–seed pairs: the prompts over and over, every pair with a seed of its own.

    The negative context is 25 times the empty word. To the model that is the same as 24 times, but the host cannot
    join 25 with the prompt's 24 into one call: EasyCache of ComfyUI 0.3.64 adds wrong rows in joined calls.
    """
    empty = context_for("")
    negative = torch.cat([empty, empty[:1]])[None]
    return [
        Job(SHAPE, context_for(prompt)[None], negative, seed=seed + number, steps=steps, cfg=cfg)
        for number, prompt in enumerate(itertools.islice(itertools.cycle(PROMPTS), pairs))
    ]


@dataclass(frozen=True)
class Candidate:
    """One way to sample faster. build: MODEL → MODEL and the handle of its reports.

    kind: "default", "control" or "easycache"; budget: mean budget asked for; fingerprint: changes with the content.
    """

    name: str
    kind: str
    build: Callable[[Any], tuple[Any, Any]]
    budget: float | None = None
    about: str = ""
    fingerprint: str = ""


def _planned(name: str, kind: str, schedule: Schedule, mode: str | None, budget: float | None) -> Candidate:
    about = f"schedule '{schedule.name}', mode {mode or schedule.mode}"
    content = json.dumps([name, schedule.points, mode or schedule.mode, budget]).encode()

    def build(model: Any) -> tuple[Any, Any]:
        return accelerated(model, schedule, mode=mode, budget=budget)

    return Candidate(name, kind, build, budget, about, digest([content]))


def default_schedule(budget: float, sigmas: Sequence[float]) -> Schedule:
    """What the node picks; a hand-made rhythm where the pack has no bundled schedule."""
    try:
        return pick(budget, "wan")
    except ScheduleError:
        return rhythm("no bundled schedule", [0.0, 1.0], sigmas)


def planned_candidates(sigmas: Sequence[float], budgets: Sequence[float] = BUDGETS) -> list[Candidate]:
    """Bundled defaults and controls, each at every budget. sigmas: the run's noise levels without the final 0."""
    found = []
    for budget in budgets:
        whole = whole_steps("whole steps", 2, sigmas)
        even = uniform("uniform", budget, sigmas)
        found.append(_planned(f"bundled {budget}", "default", default_schedule(budget, sigmas), None, budget))
        controls = [("whole steps, hold", whole, "hold"), ("whole steps, forecast", whole, "forecast")]
        controls += [("whole steps, corrected", whole, "default")]
        controls += [("uniform, default", even, "default"), ("uniform, random tokens", even, "random")]
        controls += [(f"uniform, {mode}", even, mode) for mode in ("paper", "hold", "refit", "forecast")]
        found += [_planned(f"{name} {budget}", "control", made, mode, budget) for name, made, mode in controls]
    probes = rhythm("anchor and probes", [0.05, 0.05, 0.9], sigmas)
    found += [
        _planned(f"anchor and probes, {mode} {probes.mean_budget:.2f}", "control", probes, mode, None)
        for mode in ("default", "refit")
    ]
    return found


def easycache(threshold: float, *, as_is: bool = False) -> Candidate:
    """The host's own EasyCache node with its default start and end.

    EasyCache adds its estimate to the latents in place. Where the model computes in float32, as on most CPUs, those
    are the sampler's own latents, which the host then reads again: the result is wrong. In half precision the
    host hands over a copy. So a copy is made here, unless `as_is`.
    """

    def build(model: Any) -> tuple[Any, Any]:
        from comfy_extras.nodes_easycache import EasyCacheNode

        clone, counted = model.clone(), CountedCalls()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, COUNT_KEY, counted.outside)
        if not as_is:
            clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, COPY_KEY, _copy_latents)
        cached = EasyCacheNode.execute(clone, threshold, 0.15, 0.95, False).result[0]
        cached.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, COUNT_KEY, counted.run)
        cached.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, COUNT_KEY, counted.inside)
        return cached, counted

    name = f"EasyCache {threshold}" + (" without the copy" if as_is else "")
    kind = "easycache, broken" if as_is else "easycache"
    return Candidate(name, kind, build, None, "comfy_extras.nodes_easycache", digest([name.encode()]))


class CountedCalls:
    """How many of a run's model calls reach the model behind EasyCache; read like a handle of reports."""

    def __init__(self) -> None:
        self._calls = self._computed = 0

    @property
    def last(self) -> SimpleNamespace:
        share = self._computed / max(1, self._calls)
        return SimpleNamespace(computed_share=share, ideal_speedup=1.0 / max(share, 1e-6), notes=[])

    def run(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self._calls = self._computed = 0
        return executor(*args, **kwargs)

    def outside(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self._calls += 1
        return executor(*args, **kwargs)

    def inside(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self._computed += 1
        return executor(*args, **kwargs)


def _copy_latents(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return executor(x.clone(), *args, **kwargs)


def main_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """What is compared at further guidance scales: the estimators of uniform budgets are told apart at the first."""
    left_out = ("random tokens", "uniform, hold", "uniform, refit", "uniform, forecast", "anchor and probes")
    return [c for c in candidates if not any(part in c.name for part in left_out) and c.budget != BUDGETS[0]]


def all_candidates(sigmas: Sequence[float], quick: bool) -> list[Candidate]:
    """The whole list, or a few of each sort for a trial."""
    peers = [easycache(threshold) for threshold in THRESHOLDS] + [easycache(0.05, as_is=True)]
    if not quick:
        return planned_candidates(sigmas) + peers
    few = planned_candidates(sigmas, (0.5, 0.3))
    chosen = [c for c in few if c.kind == "default" or "whole" in c.name or "paper" in c.name]
    return chosen + [peers[i] for i in (0, 2, 4, 6)]
