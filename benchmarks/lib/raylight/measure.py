"""Starts raylight's workers by one division of the work, and times its sampler in them each way.

Import after the pack was loaded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from astraea.engine.metrics import psnr, value_range
from astraea.engine.planning.modes import DEFAULT
from astraea.engine.planning.plan import Plan, make_plan
from astraea.engine.report import Report, ReportHandle
from astraea.engine.state.residual_store import NO_CACHE
from astraea.host.raylight.workers import accelerate_workers
from astraea.schedules import token_steps

from ..host.random_wan import CONTEXT, random_context
from ..scaling.model import CHANNELS, VAE_STRIDE
from .cluster import Cluster, Division, sample
from .rows import Runs, run_record
from .sent import bytes_of
from .setting import DENSE, Setting, Way, in_words, ways_of

WARM_UP_STEPS = 4  # weights move to the GPUs and connections are made; with token steps, kernels are chosen


@dataclass(frozen=True)
class Job:
    """Request to raylight. model: its name in ComfyUI's folders; dtype: as raylight's loader names it."""

    setting: Setting
    model: str
    dtype: str
    repeats: int
    seed: int


@dataclass
class Session:
    """The measurement of one job, by one division after another; save: called after each run."""

    cluster: Cluster
    job: Job
    save: Callable[[], None]
    runs: Runs = field(default_factory=dict)
    dense_psnr: dict[str, float | None] = field(default_factory=dict)  # by number of GPUs; None: equal
    _alone: list[torch.Tensor] = field(default_factory=list)  # dense latents of one GPU

    def measure(self, division: Division) -> None:
        """Time all ways; raises what the workers or raylight raise. The workers are ended in any case."""
        try:
            actors = self.cluster.load(self.cluster.start(division.gpus, division), self.job.model, self.job.dtype)
            ways = [(way, *self._follow(actors, way)) for way in ways_of(division)]
            for way, own_actors, _ in ways:
                if way is DENSE or way.by_tokens:
                    self._sample(own_actors, min(WARM_UP_STEPS, self.job.setting.steps))
            for number in range(self.job.repeats):
                for each in ways if number % 2 == 0 else reversed(ways):
                    self._run(division, *each)
        finally:
            self.cluster.end_workers()

    def _follow(self, actors: dict[str, Any], way: Way) -> tuple[dict[str, Any], ReportHandle]:
        """Return RAY_ACTORS that sample in a way: raylight's own for the dense one."""
        handle = ReportHandle()
        return (actors if way is DENSE else accelerate_workers(actors, plan_of(way), handle)), handle

    def _sample(self, actors: dict[str, Any], steps: int) -> tuple[torch.Tensor, float]:
        """Return the latents, and the seconds until they were here: raylight's workers return them on the CPU."""
        setting, seed = self.job.setting, self.job.seed
        positive, negative = ([[random_context(CONTEXT, seed + number), {}]] for number in range(2))
        latent = torch.zeros(latent_shape(setting))
        began = time.perf_counter()
        latents = sample(
            actors, steps=steps, cfg=setting.cfg, positive=positive, negative=negative, latent=latent, seed=seed
        )
        seconds = time.perf_counter() - began
        if not math.isfinite(float(latents.float().sum())):
            raise RuntimeError("the latents are not finite")
        return latents, seconds

    def _run(self, division: Division, way: Way, actors: dict[str, Any], handle: ReportHandle) -> None:
        setting = self.job.setting
        self.cluster.count_traffic()
        latents, seconds = self._sample(actors, setting.steps)
        traffic = self.cluster.traffic()
        report = handle.last
        if way is DENSE:
            self._compare(division, latents)
            calls = [(step, 1, 1) for step in range(setting.steps)]
        else:
            calls = calls_of(report)
        kept = {
            "report": report.summary() if report is not None else "",
            "devices": report.devices if report is not None else "",
            "calls": report.counts() if report is not None else {"full": setting.steps},
        }
        record = run_record(seconds, traffic, bytes_of(setting, division, calls), kept)
        self.runs.setdefault((division.gpus, way.name), []).append(record)
        share = sum(record["collective_seconds"]) / len(traffic) / seconds
        sending = f", {share:.1%} of it in collectives" if division.gpus > 1 else ""
        print(f"  {in_words(division.gpus)}, {way.label}: {seconds:.2f} s{sending}", flush=True)
        self.save()

    def _compare(self, division: Division, latents: torch.Tensor) -> None:
        if division.gpus == 1:
            self._alone[:] = [latents]
        elif self._alone:
            found = psnr(latents, self._alone[0], value_range(self._alone[0]))
            self.dense_psnr[str(division.gpus)] = round(found, 1) if math.isfinite(found) else None


def plan_of(way: Way) -> Plan:
    """Return the plan that the node makes of a way's mode and budget."""
    if way.by_tokens:
        return make_plan(token_steps("token steps", way.budget), mode=DEFAULT.name, budget=way.budget)
    return make_plan(None, budget=way.budget, cache=NO_CACHE)


def latent_shape(setting: Setting) -> tuple[int, ...]:
    clip = setting.clip
    frames = (clip.frames - 1) // VAE_STRIDE[0] + 1
    return 1, CHANNELS, frames, clip.height // VAE_STRIDE[1], clip.width // VAE_STRIDE[2]


def calls_of(report: Report | None) -> list[tuple[int, int, int]]:
    """Return step, tokens computed and tokens of each call. Raises RuntimeError where nothing was accelerated."""
    if report is None or not report.calls:
        raise RuntimeError(report.summary() if report is not None else "Astraea's report is missing")
    return [(call.step, call.computed, call.tokens) for call in report.calls]
