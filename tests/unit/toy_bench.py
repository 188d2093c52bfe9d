"""A bench as a search needs it, small enough to run hundreds of candidates a second, and no mock: latents of 64 values
are sampled by Euler's method through the engine's own runs, under guidance, from a network of two layers.

Of a step in part the toy has no tokens to choose: it takes the whole prediction with an error that shrinks with the
budget. What steps take is nominal: a full one a second.
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
from astraea.search.problem import Job, Outcome, Recording, SamplingConfig

VALUES, HIDDEN, GUIDANCE = 64, 48, 3.0
TOKEN_ERROR = 0.05  # of a prediction at budget 0, root mean square
SECONDS = {"full": 1.0, "reuse": 0.01}
GROUPS = (RowGroup("prompt", slice(0, 1)), RowGroup("empty", slice(1, 2)))


class PartCall(ModelCall):
    """A token step of the toy: no blocks, a prediction all the same."""

    kind = TOKEN


class ToyRun(Run):
    """The engine's run, but that token steps need nothing kept per block."""

    def _new_call(self, step: int, request: CallRequest, conds: tuple[CondRows, ...]) -> ModelCall:
        if 0.0 < self.budgets[step] < 1.0:
            return PartCall(self.context, self._info(request, step, conds))
        return super()._new_call(step, request, conds)


@dataclass
class Trace:
    """What a run went through, by step: the first evaluation's latents, predictions `[G, D]` and what was told."""

    latents: list[Tensor] = field(default_factory=list)
    predictions: list[Tensor | None] = field(default_factory=list)
    told: list[Tensor] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    budgets: list[float] = field(default_factory=list)
    final: Tensor | None = None


class ToyBench:
    """Fulfils `search.problem.Bench`; the same arguments make the same bench.

    calls: evaluations per step but the last; with two (the midpoint method) nothing can be replayed. answers: how
    strongly predictions answer to the latents. end: the last noise level. floor: seconds that a step in part takes
    however little it computes. small_share: what a small clip costs of a dense run, None where there are none. runs:
    every candidate that was measured; small: the bench of small clips, once there is one.
    """

    def __init__(
        self,
        steps: int = 8,
        cases: int = 2,
        *,
        calls: int = 1,
        answers: float = 1.0,
        end: float = 0.0,
        shift: float = 3.0,
        floor: float = 0.05,
        small_share: float | None = None,
    ):
        sigmas = (*flow_sigmas(steps, shift), end)
        linear = calls == 1
        self.setting = SamplingConfig(
            sigmas=sigmas,
            evaluations=(*[calls] * (steps - 1), 1),
            cases=cases,
            family="wan",
            weights=euler_weights(sigmas) if linear else None,
            identity=f"toy {steps} {cases} {calls} {answers} {end} {shift} {floor}",
            facts={"device": "toy", "sampling": {"sampler": "euler", "cfg": GUIDANCE, "latent": [1, 1, VALUES]}},
            starts=tuple(sigma / sigmas[0] for sigma in sigmas) if linear else None,
        )
        self.answers, self.floor, self.small_share = answers, floor, small_share
        self.small: ToyBench | None = None
        self.runs: list[tuple[int, Schedule]] = []
        generator = torch.Generator().manual_seed(7)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self._inward, self._outward = drawn(VALUES, HIDDEN) / VALUES**0.5, drawn(HIDDEN, VALUES) / HIDDEN**0.5
        self._phase, self._bend = drawn(HIDDEN), 2.0 * drawn(HIDDEN)
        self._noise = drawn(cases, VALUES)
        self._prompts = torch.stack([drawn(cases, HIDDEN), torch.zeros(cases, HIDDEN)], 1)  # [N, G, H]
        self._token_errors = TOKEN_ERROR * drawn(cases, steps, 2, VALUES)
        self._dense: dict[int, Trace] = {}

    def dense(self, case: int) -> Recording:
        trace = self._known(case)
        assert trace.final is not None
        return Recording(
            latents=torch.stack(trace.latents),
            predictions=torch.stack([p for p in trace.predictions if p is not None]),
            told=torch.stack(trace.told),
            final=trace.final,
            peak=float(trace.final.max() - trace.final.min()),
            seconds=self._seconds(trace),
        )

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            self.runs.append((job.case, job.schedule))
            yield self._measured(job)

    def smaller(self, pairs: int) -> ToyBench | None:
        """Clips of other noise and prompts at a share of the price, where there are any; they are no smaller."""
        if self.small_share is None:
            return None
        bench = copy.copy(self)
        bench.setting = replace(self.setting, cases=pairs, share=self.small_share)
        drawn = [torch.Generator().manual_seed(1000 + pair) for pair in range(pairs)]
        bench._noise = torch.stack([torch.randn(VALUES, generator=each) for each in drawn])
        prompts = torch.stack([torch.randn(HIDDEN, generator=each) for each in drawn])
        bench._prompts = torch.stack([prompts, torch.zeros_like(prompts)], 1)
        bench.runs, bench._dense, self.small = [], {}, bench
        return bench

    def _known(self, case: int) -> Trace:
        if case not in self._dense:
            full = Schedule("dense", tuple((sigma, 1.0) for sigma in self.setting.sigmas if sigma > 0.0))
            self._dense[case] = self._run(case, full, None)
        return self._dense[case]

    def _measured(self, job: Job) -> Outcome:
        dense, recording = self._known(job.case), self.dense(job.case)
        losses: list[float] = []

        def worth_going_on(step: int, told: Tensor) -> bool:
            losses.append(_loss(told, dense.told[step], recording.peak))
            return job.limits is None or losses[-1] <= job.limits[step]

        trace = self._run(job.case, job.schedule, worth_going_on)
        return Outcome(
            loss=math.inf if trace.final is None else _loss(trace.final, recording.final, recording.peak),
            steps=len(losses),
            losses=tuple(losses),
            computed=sum(b * e for b, e in zip(trace.budgets, self.setting.evaluations, strict=False)),
            seconds=self._seconds(trace),
            kinds=tuple(trace.kinds),
            responses=tuple(_response(trace, dense, step) for step in range(len(losses))),
        )

    @torch.inference_mode()
    def _run(self, case: int, schedule: Schedule, goes_on: Any) -> Trace:
        setting, trace = self.setting, Trace()
        profile = SamplerProfile.of(setting.sigmas, setting.evaluations)
        run = ToyRun.of(make_plan(schedule), setting.sigmas, profile=profile)
        x = self._noise[case] * setting.sigmas[0]
        for step, (sigma, following) in enumerate(pairwise(setting.sigmas)):
            trace.latents.append(x)
            told = self._told(run, case, step, x, sigma, trace)
            trace.budgets.append(run.budgets[step])
            trace.told.append(told)
            if goes_on is not None and not goes_on(step, told):
                return trace
            if setting.evaluations[step] == 2:
                middle = (sigma + following) / 2.0
                halfway = told + (x - told) * (middle / sigma)
                told = self._told(run, case, step, halfway, middle, None)
            x = told + (x - told) * (following / sigma)
        trace.final = x
        run.finish()
        return trace

    def _told(self, run: Run, case: int, step: int, x: Tensor, sigma: float, trace: Trace | None) -> Tensor:
        """What the sampler is told at a noise level, `[D]`."""
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
        """Denoised latents of both conditionings, `[G, D]`: smooth in the latents and bent along the noise level."""
        moved = self.answers * (x @ self._inward) + self._phase + self._bend * math.sin(1.5 * sigma)
        return torch.tanh(moved + self._prompts[case]) @ self._outward

    def _seconds(self, trace: Trace) -> tuple[float, ...]:
        steps = zip(trace.kinds, trace.budgets, self.setting.evaluations, strict=False)
        return tuple(e * SECONDS.get(kind, self.floor + (1.0 - self.floor) * b) for kind, b, e in steps)


def euler_weights(sigmas: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """By step, what 1 more in each prediction adds to the latents after it."""
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
    predictions, known = trace.predictions[step], dense.predictions[step]
    off = float((trace.latents[step] - dense.latents[step]).norm())
    if predictions is None or known is None or off < 1e-6:
        return None
    prompt, empty = predictions - known
    return float((empty + GUIDANCE * (prompt - empty)).norm()) / off
