"""Runs a search's candidates in ComfyUI, on the user's own model, prompts and sampler. Decides nothing itself."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.sampler_helpers
import torch
from torch import Tensor

from ...engine.metrics import value_range
from ...engine.planning.plan import make_plan
from ...engine.report import REUSE, TOKEN, Report, ReportHandle
from ...errors import SearchError
from ...schedules import Schedule
from ...search.problem import MAX_SAMPLED, Job, Outcome, Recording, SamplingConfig
from ..sampling.patch_model import accelerate, family_of, without_acceleration
from .proxy_clips import small_clips
from .recorder import Recorder, places_of
from .setting import Case, setting_of

MIN_DIFFERENCE = 1e-6  # root mean square of latents that count as off
ALL_SAMPLED = 0.999  # noise mask
SMALL_SAMPLED = 512  # as `MAX_SAMPLED`, of small clips: there are many, and nothing is replayed of them
Told = Callable[[int, Tensor], None]


class _GivenUp(Exception):
    """Ends a run that is worse than it may be."""


@dataclass(frozen=True)
class _Run:
    """recorder: what was noted; output: the LATENT's samples, None where the run was given up."""

    recorder: Recorder
    output: Tensor | None
    report: Report


@dataclass(frozen=True)
class _Dense:
    """final: all latents at the end, in the model's space, fp32 on the CPU; guidance `[G]`: weights of predictions."""

    recording: Recording
    final: Tensor
    guidance: Tensor


class ComfyRunner:
    """Fulfils `search.problem.Bench`. What it keeps between runs lies on the CPU; the MODEL stays as it is.

    model: a MODEL, measured as if it were not accelerated; sampler, sigmas, cfg: as SamplerCustom takes them.
    on_step: called after every sampler step, dense runs included. setting: where it is known; None works it out.
    sampled: latent values that recordings keep of each step.
    Raises SearchError where there is nothing to search: see `bench_setting.setting_of`. An interrupt by the user passes
    through whatever runs.
    """

    def __init__(
        self,
        model: Any,
        cases: Sequence[Case],
        *,
        sampler: Any,
        sigmas: Tensor,
        cfg: float,
        on_step: Callable[[], None] | None = None,
        setting: SamplingConfig | None = None,
        sampled: int = MAX_SAMPLED,
    ):
        family, why_not = family_of(model)
        if why_not:
            raise SearchError(f"This model cannot be accelerated: {why_not}.")
        # As it is, an earlier plan included: every candidate is one clone of it that has its own plan instead. From a
        # clone of a clone the host would lose its way to the weights when both are freed at once, after an interrupt.
        self._model = model
        self._sampler, self._sigmas, self._cfg = sampler, sigmas.detach().cpu().clone(), cfg
        self._on_step = on_step or (lambda: None)
        self._cases = [_with_channels(self._model, case) for case in cases]
        if setting is None:
            setting = setting_of(without_acceleration(model), family, self._cases, sampler, self._sigmas, cfg)
        self._setting = setting
        self._places = [places_of(_is_sampled(case.latent), sampled) for case in self._cases]
        self._dense: dict[int, _Dense] = {}
        self._latest: Tensor | None = None

    @property
    def setting(self) -> SamplingConfig:
        return self._setting

    @property
    def latest(self) -> Tensor | None:
        """Samples `[B, C, T, H, W]`, as a LATENT has them, of the newest candidate that ran to its end."""
        return self._latest

    def dense(self, case: int) -> Recording:
        return self.known(case).recording

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            yield self._measured(job)

    def smaller(self, pairs: int) -> ComfyRunner | None:
        """On clips of half the height and width and a third of the length: they rank schedules as large ones do."""
        found = small_clips(self._cases, pairs)
        if found is None:
            return None
        cases, share = found
        return ComfyRunner(
            self._model,
            cases,
            sampler=self._sampler,
            sigmas=self._sigmas,
            cfg=self._cfg,
            on_step=self._on_step,
            setting=replace(self._setting, cases=len(cases), share=share),
            sampled=SMALL_SAMPLED,
        )

    def known(self, case: int) -> _Dense:
        """Return all that is known of a case's dense run, made at the first call."""
        if case not in self._dense:
            self._dense[case] = self._run_dense(case)
        return self._dense[case]

    def load_reference(self, case: int, known: _Dense) -> None:
        """Take a case's dense run from another bench, so that all are measured against the same."""
        self._dense[case] = known

    def _run_dense(self, case: int) -> _Dense:
        # At budget 1 the result is the model's own to the bit, and the same eyes see it as see the candidates.
        everything = Schedule("everything", tuple((sigma, 1.0) for sigma in self._setting.sigmas if sigma > 0.0))
        run = self._run(case, everything, lambda step, told: None)
        assert run.output is not None
        final = self._model_space(run.output)
        if not torch.isfinite(final).all():
            raise SearchError("The model's own result is not finite: there is nothing to compare with.")
        recording = self._recording(run, final)
        return _Dense(recording, final, self._guidance(recording))

    def _recording(self, run: _Run, final: Tensor) -> Recording:
        recorder, steps = run.recorder, range(self._setting.steps)
        latents = [found for step in steps if (found := recorder.latents(step)) is not None]
        predictions = [found for step in steps if (found := recorder.predictions(step)) is not None]
        if sorted(recorder.told) != list(steps) or len(latents) != len(steps):
            raise SearchError(
                "This sampler does not go through the noise levels one by one, so that its runs cannot be compared "
                "step by step. Choose another one, such as euler."
            )
        return Recording(
            latents=torch.stack(latents),
            predictions=torch.stack(predictions),
            told=torch.stack([recorder.told[step] for step in steps]),
            final=recorder.sampled(final),
            peak=value_range(final),
            seconds=_seconds(run.report, len(steps)),
        )

    def _guidance(self, recording: Recording) -> Tensor:
        """Weights `[G]` by which predictions make up what the sampler is told, fitted.

        From steps of one evaluation where there are any: in others the two may belong to different evaluations.
        """
        single = [step for step, count in enumerate(self._setting.evaluations) if count == 1]
        steps = single or list(range(self._setting.steps))
        rows = recording.predictions[steps].double().transpose(1, 2).flatten(0, 1)  # [K·D, G]
        told = recording.told[steps].double().flatten()
        # By the pseudoinverse of a G×G matrix: two equal conditionings share their weight.
        return (torch.linalg.pinv(rows.T @ rows, hermitian=True) @ (rows.T @ told)).float()

    def _measured(self, job: Job) -> Outcome:
        dense = self.known(job.case)
        recording, peak = dense.recording, dense.recording.peak
        losses: list[float] = []

        def judge(step: int, told: Tensor) -> None:
            losses.append(_loss(told, recording.told[step], peak))
            if job.limits is not None and not losses[-1] <= job.limits[step]:
                raise _GivenUp

        run = self._run(job.case, job.schedule, judge)
        loss = math.inf
        if run.output is not None:
            self._latest = run.output
            loss = _loss(self._model_space(run.output), dense.final, peak)
        steps = len(losses)
        return Outcome(
            loss=loss,
            steps=steps,
            losses=tuple(losses),
            computed=_computed(run.report, self._setting.evaluations),
            seconds=_seconds(run.report, steps),
            kinds=_kinds(run.report, steps),
            responses=tuple(_response(run.recorder, dense, step) for step in range(steps)),
        )

    def _run(self, case: int, schedule: Schedule, judge: Told) -> _Run:
        recorder = Recorder(self._places[case], self._cases[case].latent["samples"].numel())
        handle = ReportHandle(keep=1)
        candidate = accelerate(self._model, make_plan(schedule), handle, recorder.observe)

        def after_step(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            recorder.tell(step, denoised)
            self._on_step()
            judge(step, recorder.told[step])

        output = None
        with contextlib.suppress(_GivenUp):
            output = self._sample(candidate, self._cases[case], after_step)
        assert handle.last is not None
        return _Run(recorder, output, handle.last)

    def _sample(self, model: Any, case: Case, callback: Callable[..., None]) -> Tensor:
        """What the host's SamplerCustom returns for the case, `[B, C, T, H, W]`."""
        latent = case.latent
        with torch.inference_mode():
            return comfy.sample.sample_custom(
                model,
                comfy.sample.prepare_noise(latent["samples"], case.seed, latent.get("batch_index")),
                self._cfg,
                self._sampler,
                self._sigmas.clone(),  # samplers may change theirs
                case.positive,
                case.negative,
                latent["samples"],
                noise_mask=latent.get("noise_mask"),
                callback=callback,
                disable_pbar=True,
                seed=case.seed,
            )

    def _model_space(self, output: Tensor) -> Tensor:
        return self._model.model.process_latent_in(output.float()).cpu()


def _with_channels(model: Any, case: Case) -> Case:
    """The case with empty latents in the shape that the model takes, as the host's sampling nodes prepare them."""
    samples = case.latent.get("samples")
    if not isinstance(samples, Tensor) or samples.ndim not in (4, 5):
        raise SearchError("The latent holds no video: searching needs samples of the shape [B, C, T, H, W].")
    prepare = comfy.sample.fix_empty_latent_channels
    # Newer hosts also enlarge empty latents that were made for another model.
    newer = "downscale_ratio_spacial" in inspect.signature(prepare).parameters
    extra = (case.latent.get("downscale_ratio_spacial"),) if newer else ()
    samples = prepare(model, samples, *extra)
    return Case(case.positive, case.negative, {**case.latent, "samples": samples}, case.seed)


def _is_sampled(latent: dict) -> Tensor:
    """Where latents are sampled, `[B, C, T, H, W]`: elsewhere a noise mask keeps them, whatever the model predicts."""
    samples, mask = latent["samples"], latent.get("noise_mask")
    if mask is None:
        return torch.ones(samples.shape, dtype=torch.bool)
    inside = comfy.sampler_helpers.prepare_mask(mask, samples.shape, "cpu") > ALL_SAMPLED
    return inside if inside.any() else torch.ones_like(inside)


def _loss(own: Tensor, dense: Tensor, peak: float) -> float:
    """Mean square error over the square of the dense result's range; infinite where anything is not finite."""
    loss = float((own.double() - dense.double()).square().mean()) / peak**2
    return loss if math.isfinite(loss) else math.inf


def _response(recorder: Recorder, dense: _Dense, step: int) -> float | None:
    """How far guided predictions are off at a computed step, over how far the latents are; None if they are not."""
    latents, predictions = recorder.latents(step), recorder.predictions(step)
    if latents is None or predictions is None or predictions.shape != dense.recording.predictions[step].shape:
        return None
    off = float((latents - dense.recording.latents[step]).norm())
    if not off >= MIN_DIFFERENCE * math.sqrt(latents.numel()):
        return None
    told_off = torch.einsum("g,gd->d", dense.guidance, predictions - dense.recording.predictions[step])
    response = float(told_off.norm()) / off
    return response if math.isfinite(response) else None


def _seconds(report: Report, steps: int) -> tuple[float, ...]:
    """In the model, by step, without the one-off timing of attention kernels, which fell into the first token step."""
    seconds = [sum(call.seconds for call in report.calls if call.step == step) for step in range(steps)]
    first = next((call.step for call in report.calls if call.kind == TOKEN), steps)
    if first < steps:
        seconds[first] = max(0.0, seconds[first] - report.tuning_seconds)
    return tuple(seconds)


def _kinds(report: Report, steps: int) -> tuple[str, ...]:
    first = {call.step: call.kind for call in reversed(report.calls)}
    return tuple(first.get(step, REUSE) for step in range(steps))


def _computed(report: Report, evaluations: Sequence[int]) -> float:
    """Full evaluations' worth of tokens that were computed; conditionings in calls of their own are not more."""
    total = 0.0
    for step, count in enumerate(evaluations):
        shares = [call.computed / call.tokens for call in report.calls if call.step == step]
        total += count * sum(shares) / max(1, len(shares))
    return total
