"""Candidates on several cases at once, as one batch: what a GPU does in little more than the time of one.

Rows of a batch are computed as they are alone: each chooses its own tokens, all the same number of them. Only the
damping of forecasts is shared by what is sampled together; here each case keeps its own. Import after the host was
started.
"""

from __future__ import annotations

import contextlib
import unittest.mock
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import comfy.sample
import torch
from faster_cpu import bfloat16_attention
from torch import Tensor

from astraea.engine.estimators import ExtrapolationGain
from astraea.engine.metrics import value_range
from astraea.engine.plan import make_plan
from astraea.engine.report import Report, ReportHandle
from astraea.engine.run import Run
from astraea.host.sampling.patch_model import accelerate
from astraea.host.search.runner import ComfyRunner, _computed, _kinds, _loss, _seconds
from astraea.schedules import Schedule
from astraea.search.problem import Job, Outcome


class TrialByCase(ExtrapolationGain):
    """One damping for each row of a conditioning's part of the batch."""

    def _sum(self, products: Tensor) -> Tensor:
        return products.sum(dim=tuple(range(1, products.ndim)), keepdim=True)


@dataclass(frozen=True)
class _Together:
    """A run of all cases. final: latents in the model's space `[B, C, T, H, W]`; told: by step, on the device."""

    final: Tensor
    told: list[Tensor]
    report: Report


class BatchedBench(ComfyRunner):
    """Runs the first `together` cases in one batch. They have one latent each, contexts of one length, one negative."""

    together = 4
    _newest: tuple[Schedule, list[Outcome]] | None = None

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            if job.limits is not None or job.case >= self.together:
                raise ValueError("a batch is run to its end, and holds the first cases only")
            yield self._of(job.schedule)[job.case]

    def _of(self, schedule: Schedule) -> list[Outcome]:
        """Outcomes of all cases; the newest ones are kept, as they are asked for one after another."""
        if self._newest is None or self._newest[0] != schedule:
            self._newest = (schedule, self._outcomes(schedule))
        return self._newest[1]

    def _outcomes(self, schedule: Schedule) -> list[Outcome]:
        dense, evaluations = self.everything, self._setting.evaluations
        peaks = [value_range(dense.final[case : case + 1]) for case in range(self.together)]
        run = self._run_together(schedule)
        off = [(own - full).float().square().flatten(1).mean(1) for own, full in zip(run.told, dense.told, strict=True)]
        losses = (torch.stack(off).cpu().double() / torch.tensor(peaks).double().square()).T.tolist()
        steps = len(run.told)
        return [
            Outcome(
                loss=_loss(run.final[case], dense.final[case], peaks[case]),
                steps=steps,
                losses=tuple(losses[case]),
                computed=_computed(run.report, evaluations),
                seconds=tuple(seconds / self.together for seconds in _seconds(run.report, steps)),
                kinds=_kinds(run.report, steps),
                responses=(None,) * steps,
            )
            for case in range(self.together)
        ]

    @cached_property
    def everything(self) -> _Together:
        """The dense run of the batch."""
        levels = tuple((sigma, 1.0) for sigma in self._setting.sigmas if sigma > 0.0)
        return self._run_together(Schedule("everything", levels))

    def _run_together(self, schedule: Schedule) -> _Together:
        handle, told = ReportHandle(keep=1), []
        candidate = accelerate(self._model, make_plan(schedule, attention="host"), handle)
        cases = self._cases[: self.together]
        latents = [case.latent["samples"] for case in cases]

        def after_step(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            told.append(denoised.clone())

        by_case = unittest.mock.patch.object(Run, "_new_trial", _new_trial)
        with torch.inference_mode(), by_case:
            output = comfy.sample.sample_custom(
                candidate,
                torch.cat([comfy.sample.prepare_noise(latents[n], case.seed) for n, case in enumerate(cases)]),
                self._cfg,
                self._sampler,
                self._sigmas.clone(),
                [[torch.cat([case.positive[0][0] for case in cases]), {}]],
                cases[0].negative,
                torch.cat(latents),
                callback=after_step,
                disable_pbar=True,
                seed=cases[0].seed,
            )
        assert handle.last is not None
        return _Together(self._model_space(output), told, handle.last)


def _new_trial(run: Run) -> ExtrapolationGain:
    return TrialByCase(run.forecast.expected, run.curves.extrapolation_axis)


@contextlib.contextmanager
def rounded_on_gpu() -> Iterator[None]:
    """Within it a GPU takes its matrix units for fp32: factors have 11 bits, in attention 8; sums and the rest fp32."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        with bfloat16_attention():
            yield
    finally:
        matmul.allow_tf32 = before
