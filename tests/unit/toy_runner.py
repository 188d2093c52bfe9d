"""A runner for searches that makes hundreds of runs a second, and no mock: latents of 64 values are sampled by Euler's
method through the engine's own runs, with guidance, from a network of two layers.

A partial step has no tokens to select here: its prediction gets an error that shrinks with the budget. Step times are
nominal: a full step takes a second.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from astraea.engine.blocks.interface import RowGroup, TokenLayout
from astraea.engine.calls import ModelCall, ReuseCall
from astraea.engine.calls.context import CallRequest, CondRows
from astraea.engine.planning.plan import make_plan
from astraea.engine.report import TOKEN
from astraea.engine.run import Run
from astraea.engine.sampler.profile import SamplerProfile
from astraea.kernels import attend_reference
from astraea.schedules import Schedule, flow_sigmas
from astraea.search.problem.runner import Job, Outcome, Recording, SamplingConfig

VALUES, HIDDEN, GUIDANCE = 64, 48, 3.0
TOKEN_ERROR = 0.05  # of a prediction at budget 0, root mean square
SECONDS = {"full": 1.0, "reuse": 0.01}
GROUPS = (RowGroup("prompt", slice(0, 1)), RowGroup("empty", slice(1, 2)))


class PartCall(ModelCall):
    """A token step without blocks."""

    kind = TOKEN


class ToyRun(Run):
    """The engine's run, except that token steps keep nothing per block."""

    def _new_call(self, step: int, request: CallRequest, conds: tuple[CondRows, ...]) -> ModelCall:
        if 0.0 < self.budgets[step] < 1.0:
            return PartCall(self.context, self._info(request, step, conds))
        return super()._new_call(step, request, conds)


@dataclass
class Trace:
    """A run by step: latents, predictions `[G, D]` and guided predictions of the first evaluation."""

    latents: list[Tensor] = field(default_factory=list)
    predictions: list[Tensor | None] = field(default_factory=list)
    guided: list[Tensor] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    budgets: list[float] = field(default_factory=list)
    final: Tensor | None = None


class ToyRunner:
    """Implements `search.problem.Runner`; the same arguments make the same runner.

    calls: evaluations per step except the last; with two (the midpoint method) nothing can be replayed. response: how
    strongly predictions depend on the latents. end: last noise level. overhead: least seconds of a partial step.
    proxy_cost: of a small clip in dense runs, None if there are no small clips. runs: every candidate that was
    measured; proxy_runner: the runner of small clips, once there is one.
    """

    def __init__(
        self,
        steps: int = 8,
        cases: int = 2,
        *,
        calls: int = 1,
        response: float = 1.0,
        end: float = 0.0,
        shift: float = 3.0,
        overhead: float = 0.05,
        proxy_cost: float | None = None,
    ):
        sigmas = (*flow_sigmas(steps, shift), end)
        linear = calls == 1
        self.setting = SamplingConfig(
            sigmas=sigmas,
            calls_per_step=(*[calls] * (steps - 1), 1),
            cases=cases,
            family="wan",
            weights=euler_weights(sigmas) if linear else None,
            identity=f"toy {steps} {cases} {calls} {response} {end} {shift} {overhead}",
            facts={"device": "toy", "sampling": {"sampler": "euler", "cfg": GUIDANCE, "latent": [1, 1, VALUES]}},
            starts=tuple(sigma / sigmas[0] for sigma in sigmas) if linear else None,
        )
        self.response, self.overhead, self.proxy_cost = response, overhead, proxy_cost
        self.proxy_runner: ToyRunner | None = None
        self.runs: list[tuple[int, Schedule]] = []
        generator = torch.Generator().manual_seed(7)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self._inward, self._outward = normal(VALUES, HIDDEN) / VALUES**0.5, normal(HIDDEN, VALUES) / HIDDEN**0.5
        self._phase, self._bend = normal(HIDDEN), 2.0 * normal(HIDDEN)
        self._noise = normal(cases, VALUES)
        self._prompts = torch.stack([normal(cases, HIDDEN), torch.zeros(cases, HIDDEN)], 1)  # [N, G, H]
        self._token_errors = TOKEN_ERROR * normal(cases, steps, 2, VALUES)
        self._dense: dict[int, Trace] = {}

    def dense(self, case: int) -> Recording:
        trace = self._dense_trace(case)
        assert trace.final is not None
        return Recording(
            latents=torch.stack(trace.latents),
            predictions=torch.stack([p for p in trace.predictions if p is not None]),
            guided=torch.stack(trace.guided),
            final=trace.final,
            peak=float(trace.final.max() - trace.final.min()),
            seconds=self._seconds(trace),
        )

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            self.runs.append((job.case, job.schedule))
            yield self._measured(job)

    def proxy(self, cases: int) -> ToyRunner | None:
        """Return cases of other noise and prompts at a share of the cost; their latents are as large."""
        if self.proxy_cost is None:
            return None
        runner = copy.copy(self)
        runner.setting = replace(self.setting, cases=cases, relative_cost=self.proxy_cost)
        generators = [torch.Generator().manual_seed(1000 + case) for case in range(cases)]
        runner._noise = torch.stack([torch.randn(VALUES, generator=each) for each in generators])
        prompts = torch.stack([torch.randn(HIDDEN, generator=each) for each in generators])
        runner._prompts = torch.stack([prompts, torch.zeros_like(prompts)], 1)
        runner.runs, runner._dense, self.proxy_runner = [], {}, runner
        return runner

    def _dense_trace(self, case: int) -> Trace:
        if case not in self._dense:
            full = Schedule("dense", tuple((sigma, 1.0) for sigma in self.setting.sigmas if sigma > 0.0))
            self._dense[case] = self._run(case, full, None)
        return self._dense[case]

    def _measured(self, job: Job) -> Outcome:
        dense, recording = self._dense_trace(job.case), self.dense(job.case)
        losses: list[float] = []

        def is_within_limits(step: int, guided: Tensor) -> bool:
            losses.append(_loss(guided, dense.guided[step], recording.peak))
            return job.limits is None or losses[-1] <= job.limits[step]

        trace = self._run(job.case, job.schedule, is_within_limits)
        return Outcome(
            loss=math.inf if trace.final is None else _loss(trace.final, recording.final, recording.peak),
            steps=len(losses),
            losses=tuple(losses),
            computed=sum(b * e for b, e in zip(trace.budgets, self.setting.calls_per_step, strict=False)),
            seconds=self._seconds(trace),
            kinds=tuple(trace.kinds),
            responses=tuple(_response(trace, dense, step) for step in range(len(losses))),
        )

    @torch.inference_mode()
    def _run(self, case: int, schedule: Schedule, keep_going: Any) -> Trace:
        setting, trace = self.setting, Trace()
        profile = SamplerProfile.of(setting.sigmas, setting.calls_per_step)
        run = ToyRun.of(make_plan(schedule), setting.sigmas, profile=profile)
        x = self._noise[case] * setting.sigmas[0]
        for step, (sigma, following) in enumerate(pairwise(setting.sigmas)):
            trace.latents.append(x)
            guided = self._guided(run, case, step, x, sigma, trace)
            trace.budgets.append(run.budgets[step])
            trace.guided.append(guided)
            if keep_going is not None and not keep_going(step, guided):
                return trace
            if setting.calls_per_step[step] == 2:
                middle = (sigma + following) / 2.0
                halfway = guided + (x - guided) * (middle / sigma)
                guided = self._guided(run, case, step, halfway, middle, None)
            x = guided + (x - guided) * (following / sigma)
        trace.final = x
        run.finish()
        return trace

    def _guided(self, run: Run, case: int, step: int, x: Tensor, sigma: float, trace: Trace | None) -> Tensor:
        """Return the guided prediction at a noise level, `[D]`."""
        request = CallRequest(
            sigma=sigma,
            groups=GROUPS,
            layout=TokenLayout(VALUES),
            runner=None,
            attend=attend_reference,
            blocks=1,
            device=x.device,
        )
        call = run.begin_call(request)
        if isinstance(call, ReuseCall):
            computed, predicted = None, call.estimate()
        else:
            computed = predicted = self._predicted(case, x, sigma)
            if call.kind == TOKEN:
                computed = predicted = computed + (1.0 - run.budgets[step]) * self._token_errors[case, step]
        prompt, empty = run.end_call(call, predicted)
        if trace is not None:
            trace.predictions.append(computed)
            trace.kinds.append(call.kind)
        return empty + GUIDANCE * (prompt - empty)

    def _predicted(self, case: int, x: Tensor, sigma: float) -> Tensor:
        """Return denoised latents of both conditionings, `[G, D]`: smooth in the latents, curved in the noise level."""
        moved = self.response * (x @ self._inward) + self._phase + self._bend * math.sin(1.5 * sigma)
        return torch.tanh(moved + self._prompts[case]) @ self._outward

    def _seconds(self, trace: Trace) -> tuple[float, ...]:
        steps = zip(trace.kinds, trace.budgets, self.setting.calls_per_step, strict=False)
        return tuple(e * SECONDS.get(kind, self.overhead + (1.0 - self.overhead) * b) for kind, b, e in steps)


def euler_weights(sigmas: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Return by step the change of the latents after it per unit change of each prediction."""
    rows: list[tuple[float, ...]] = []
    row = [0.0] * (len(sigmas) - 1)
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        row = [weight * following / sigma for weight in row]
        row[step] = 1.0 - following / sigma
        rows.append(tuple(row))
    return tuple(rows)


def _loss(own: Tensor, dense: Tensor, peak: float) -> float:
    return float((own.double() - dense.double()).square().mean()) / peak**2


def _response(trace: Trace, dense: Trace, step: int) -> float | None:
    predictions, reference = trace.predictions[step], dense.predictions[step]
    off = float((trace.latents[step] - dense.latents[step]).norm())
    if predictions is None or reference is None or off < 1e-6:
        return None
    prompt, empty = predictions - reference
    return float((empty + GUIDANCE * (prompt - empty)).norm()) / off
