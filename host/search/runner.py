"""Runs a search's candidates in ComfyUI, on the user's model, prompts and sampler. Makes no decisions."""

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
from ...search.problem.runner import MAX_SAMPLED, Job, Outcome, Recording, SamplingConfig
from ..sampling.levels import latent_scale_of
from ..sampling.patch_model import accelerate, family_of, without_acceleration
from .proxy_clips import make_proxy_clips
from .recorder import Recorder, choose_sample_indices
from .setting import Case, setting_of

MIN_DIFFERENCE = 1e-6  # root mean square error of latents from which a response is measured
FULL_MASK = 0.999  # noise mask of values that are sampled
PROXY_SAMPLED = 512  # instead of MAX_SAMPLED, for small clips: there are many, and they are not replayed
OnGuided = Callable[[int, Tensor], None]  # step, guided prediction `[D]`


class _Aborted(Exception):
    """Ends a run that exceeds its limits."""


@dataclass(frozen=True)
class _Run:
    """A run. output: the LATENT's samples, None if the run was aborted."""

    recorder: Recorder
    output: Tensor | None
    report: Report


@dataclass(frozen=True)
class DenseRun:
    """A dense run. final: all latents at the end, in the model's space, fp32 on the CPU; guidance: see `_guidance`."""

    recording: Recording
    final: Tensor
    guidance: Tensor


class ComfyRunner:
    """Implements `search.problem.Runner`. Keeps its recordings on the CPU; does not change the MODEL.

    model: a MODEL; if Astraea accelerates it, it is searched as if it were not. sampler, sigmas, cfg: as SamplerCustom
    takes them. on_step: called after every sampler step, dense runs included. setting: None: find it by `setting_of`.
    sampled: number of latent values of each step that recordings keep.
    Raises SearchError if the sampling cannot be searched: see `setting_of`. Interrupts by the user pass through.
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
        family, unsupported_reason = family_of(model)
        if unsupported_reason:
            raise SearchError(f"This model cannot be accelerated: {unsupported_reason}.")
        # Kept with its plan, if it has one: each candidate is a clone with another plan. Clones of a clone without the
        # plan would not do: ComfyUI loses track of the weights if both are freed at once, after an interrupt.
        self._model = model
        self._sampler, self._sigmas, self._cfg = sampler, sigmas.detach().cpu().clone(), cfg
        self._on_step = on_step or (lambda: None)
        scale = latent_scale_of(model.get_model_object("model_sampling"))
        self._latent_scales = [scale(sigma) for sigma in self._sigmas.tolist()]
        self._cases = [_with_channels(self._model, case) for case in cases]
        if setting is None:
            setting = setting_of(without_acceleration(model), family, self._cases, sampler, self._sigmas, cfg)
        self._setting = setting
        self._sample_indices = [choose_sample_indices(_is_sampled(case.latent), sampled) for case in self._cases]
        self._dense: dict[int, DenseRun] = {}
        self._latest: Tensor | None = None

    @property
    def setting(self) -> SamplingConfig:
        return self._setting

    @property
    def latest(self) -> Tensor | None:
        """Samples `[B, C, T, H, W]`, as a LATENT has them, of the newest candidate that ran to its end."""
        return self._latest

    def dense(self, case: int) -> Recording:
        return self.reference(case).recording

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            yield self._measure(job)

    def proxy(self, cases: int) -> ComfyRunner | None:
        """Return a runner of clips of half the height and width and a third of the length."""
        found = make_proxy_clips(self._cases, cases)
        if found is None:
            return None
        clips, share = found
        return ComfyRunner(
            self._model,
            clips,
            sampler=self._sampler,
            sigmas=self._sigmas,
            cfg=self._cfg,
            on_step=self._on_step,
            setting=replace(self._setting, cases=len(clips), relative_cost=share),
            sampled=PROXY_SAMPLED,
        )

    def reference(self, case: int) -> DenseRun:
        """Return a case's dense run, made at the first call."""
        if case not in self._dense:
            self._dense[case] = self._run_dense(case)
        return self._dense[case]

    def load_reference(self, case: int, reference: DenseRun) -> None:
        """Use a dense run that another runner made, so that all compare with the same."""
        self._dense[case] = reference

    def _run_dense(self, case: int) -> DenseRun:
        # At budget 1 the result is bit-identical to the model's own, and it is recorded as candidates are.
        full = Schedule("everything", tuple((sigma, 1.0) for sigma in self._setting.sigmas if sigma > 0.0))
        run = self._run(case, full, lambda step, guided: None)
        assert run.output is not None
        final = self._model_space(run.output)
        if not torch.isfinite(final).all():
            raise SearchError("The model's own result is not finite: there is nothing to compare with.")
        recording = self._recording(run, final)
        return DenseRun(recording, final, self._guidance(recording))

    def _recording(self, run: _Run, final: Tensor) -> Recording:
        recorder, steps = run.recorder, range(self._setting.steps)
        latents = [found for step in steps if (found := recorder.latents(step)) is not None]
        predictions = [found for step in steps if (found := recorder.predictions(step)) is not None]
        if sorted(recorder.guided) != list(steps) or len(latents) != len(steps):
            raise SearchError(
                "This sampler does not use the noise levels one after the other, so its runs cannot be compared step "
                "by step. Choose another sampler, such as euler."
            )
        return Recording(
            latents=torch.stack(latents),
            predictions=torch.stack(predictions),
            guided=torch.stack([recorder.guided[step] for step in steps]),
            final=recorder.sampled(final),
            peak=value_range(final),
            seconds=_seconds(run.report, len(steps)),
        )

    def _guidance(self, recording: Recording) -> Tensor:
        """Fit the weights `[G]` by which the guided prediction is a sum of the conditionings' predictions.

        By steps of one model call if there are any: in a step of several, the two may belong to different calls.
        """
        single = [step for step, count in enumerate(self._setting.calls_per_step) if count == 1]
        steps = single or list(range(self._setting.steps))
        rows = recording.predictions[steps].double().transpose(1, 2).flatten(0, 1)  # [K·D, G]
        guided = recording.guided[steps].double().flatten()
        # By the pseudoinverse of a G×G matrix, so that two equal conditionings share their weight.
        return (torch.linalg.pinv(rows.T @ rows, hermitian=True) @ (rows.T @ guided)).float()

    def _measure(self, job: Job) -> Outcome:
        dense = self.reference(job.case)
        recording, peak = dense.recording, dense.recording.peak
        losses: list[float] = []

        def check(step: int, guided: Tensor) -> None:
            losses.append(_loss(guided, recording.guided[step], peak))
            if job.limits is not None and not losses[-1] <= job.limits[step]:
                raise _Aborted

        run = self._run(job.case, job.schedule, check)
        loss = math.inf
        if run.output is not None:
            self._latest = run.output
            loss = _loss(self._model_space(run.output), dense.final, peak)
        steps = len(losses)
        return Outcome(
            loss=loss,
            steps=steps,
            losses=tuple(losses),
            computed=_computed(run.report, self._setting.calls_per_step),
            seconds=_seconds(run.report, steps),
            kinds=_kinds(run.report, steps),
            responses=tuple(_response(run.recorder, dense, step, self._latent_scales[step]) for step in range(steps)),
        )

    def _run(self, case: int, schedule: Schedule, on_guided: OnGuided) -> _Run:
        recorder = Recorder(self._sample_indices[case], self._cases[case].latent["samples"].numel())
        handle = ReportHandle(keep=1)
        candidate = accelerate(self._model, make_plan(schedule), handle, recorder.on_model_call)

        def after_step(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            recorder.on_step(step, denoised)
            self._on_step()
            on_guided(step, recorder.guided[step])

        output = None
        with contextlib.suppress(_Aborted):
            output = self._sample(candidate, self._cases[case], after_step)
        assert handle.last is not None
        return _Run(recorder, output, handle.last)

    def _sample(self, model: Any, case: Case, callback: Callable[..., None]) -> Tensor:
        """Sample the case as SamplerCustom does, `[B, C, T, H, W]`."""
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
    """Return the case with empty latents in the model's shape, as ComfyUI's sampling nodes prepare them."""
    samples = case.latent.get("samples")
    if not isinstance(samples, Tensor) or samples.ndim not in (4, 5):
        raise SearchError("The latent holds no video: a search needs samples of the shape [B, C, T, H, W].")
    prepare = comfy.sample.fix_empty_latent_channels
    # Newer hosts also enlarge empty latents that were made for another model.
    newer = "downscale_ratio_spacial" in inspect.signature(prepare).parameters
    extra = (case.latent.get("downscale_ratio_spacial"),) if newer else ()
    samples = prepare(model, samples, *extra)
    return Case(case.positive, case.negative, {**case.latent, "samples": samples}, case.seed)


def _is_sampled(latent: dict) -> Tensor:
    """Return a mask `[B, C, T, H, W]` of values that are sampled: a noise mask keeps the others as they are."""
    samples, mask = latent["samples"], latent.get("noise_mask")
    if mask is None:
        return torch.ones(samples.shape, dtype=torch.bool)
    inside = comfy.sampler_helpers.prepare_mask(mask, samples.shape, "cpu") > FULL_MASK
    return inside if inside.any() else torch.ones_like(inside)


def _loss(own: Tensor, dense: Tensor, peak: float) -> float:
    """Return the mean square error over the square of the dense result's range; infinite if not finite."""
    loss = float((own.double() - dense.double()).square().mean()) / peak**2
    return loss if math.isfinite(loss) else math.inf


def _response(recorder: Recorder, dense: DenseRun, step: int, scale: float) -> float | None:
    """Return the norm of the guided prediction's error over that of the latents' error at a computed step.

    scale: of the latents, see `latent_scale_of`. None if the step was not computed or the latents have no error.
    """
    latents, predictions = recorder.latents(step), recorder.predictions(step)
    if latents is None or predictions is None or predictions.shape != dense.recording.predictions[step].shape:
        return None
    latent_error = float((latents - dense.recording.latents[step]).norm())
    if not latent_error >= MIN_DIFFERENCE * math.sqrt(latents.numel()):
        return None
    error = torch.einsum("g,gd->d", dense.guidance, predictions - dense.recording.predictions[step])
    response = float(error.norm()) / (scale * latent_error)
    return response if math.isfinite(response) else None


def _seconds(report: Report, steps: int) -> tuple[float, ...]:
    """Return seconds in the model by step, without the tuning of attention kernels in the first partial step."""
    seconds = [sum(call.seconds for call in report.calls if call.step == step) for step in range(steps)]
    first = next((call.step for call in report.calls if call.kind == TOKEN), steps)
    if first < steps:
        seconds[first] = max(0.0, seconds[first] - report.tuning_seconds)
    return tuple(seconds)


def _kinds(report: Report, steps: int) -> tuple[str, ...]:
    first = {call.step: call.kind for call in reversed(report.calls)}
    return tuple(first.get(step, REUSE) for step in range(steps))


def _computed(report: Report, calls_per_step: Sequence[int]) -> float:
    """Return the tokens computed, in full model calls; separate calls per conditioning count as one."""
    total = 0.0
    for step, count in enumerate(calls_per_step):
        shares = [call.computed / call.tokens for call in report.calls if call.step == step]
        total += count * sum(shares) / max(1, len(shares))
    return total
