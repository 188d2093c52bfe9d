"""Replay: losses of step-skipping schedules computed from the dense runs alone, without model calls.

The engine's own forecasts and corrections run on the predictions of a dense run. The forecast of a skipped step has an
error. It makes an error in the latents, and that one an error in the next computed prediction, which is taken to be the
latents' error times the model's response, a number per step measured in real runs (`Outcome.responses`). The direction
of the prediction's error is unknown; as that of the latents' is taken instead, replay ranks schedules but does not
predict their losses.

All vectors are linear combinations of a case's dense predictions, and held as coefficients in a basis of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from ...engine.blocks.interface import RowGroup, TokenLayout
from ...engine.calls import ReuseCall
from ...engine.calls.context import CallRequest
from ...engine.planning.plan import make_plan
from ...engine.planning.resolve import RunFacts, resolve
from ...engine.run import Run
from ...engine.sampler.profile import SamplerProfile
from ...engine.sampler.solver import Solver
from ..problem.candidate import Genome
from ..problem.runner import Outcome, Recording, SamplingConfig

DEFAULT_RESPONSE = 1.0  # before any run has shown one


def _no_attention(*_: Tensor, **__: bool) -> tuple[Tensor, None]:
    raise AssertionError("no block runs in a replay")


class Replay:
    """Losses of step-skipping schedules, from dense recordings. Raises ValueError without the sampler's weights.

    responses: by step, norm of the predictions' error over norm of the latents' error.
    """

    def __init__(self, setting: SamplingConfig, recordings: Sequence[Recording]):
        if setting.weights is None:
            raise ValueError("a sampler of unknown weights cannot be replayed")
        self.setting, self.cases = setting, len(recordings)
        self.weights = torch.tensor(setting.weights)
        self.solver = make_solver(setting)
        self.responses = [DEFAULT_RESPONSE] * setting.steps
        parts = [_in_basis(recording) for recording in recordings]
        rank = max(part.shape[-1] for part, _ in parts)
        padded = [torch.nn.functional.pad(part, (0, rank - part.shape[-1])) for part, _ in parts]
        self.predictions = torch.stack(padded, 1)  # [K, N, G, d]
        self.guidance = torch.stack([mix for _, mix in parts])  # [N, G]
        self.guided = torch.einsum("ng,kngd->knd", self.guidance, self.predictions)
        self.scale = torch.tensor([1.0 / (r.final.numel() * r.peak**2) for r in recordings])
        self._losses: dict[Genome, list[float]] = {}

    def fit_responses(self, outcomes: Sequence[Outcome]) -> None:
        """Set the responses to medians over real runs; a step without any gets that of the nearest step."""
        steps = range(self.setting.steps)
        seen = [[o.responses[k] for o in outcomes if k < len(o.responses)] for k in steps]
        known = {k: median(values) for k in steps if (values := [v for v in seen[k] if v is not None])}
        if known:
            self.responses = [known[min(known, key=lambda other: (abs(other - k), other))] for k in steps]
            self._losses.clear()

    def losses(self, genome: Genome) -> list[float]:
        """Return a loss per case (see `problem`). Raises ValueError for partial steps, which cannot be replayed."""
        if genome not in self._losses:
            if genome.has_partial_steps:
                raise ValueError("partial steps cannot be replayed")
            self._losses[genome] = self._replay(genome)
        return self._losses[genome]

    @torch.inference_mode()
    def _replay(self, genome: Genome) -> list[float]:
        steps, run = self.setting.steps, self._begin(genome)
        errors = torch.zeros(steps, *self.guided.shape[1:])
        latent_error = torch.zeros_like(self.guided[0])
        for step in range(steps):
            call = run.begin_call(self._request(step, latent_error.device))
            if isinstance(call, ReuseCall):
                predicted = call.estimate()
            else:
                computed = self.predictions[step] + self.responses[step] * latent_error.unsqueeze(1)
                predicted = computed.flatten(0, 1)
            returned = run.end_call(call, predicted).view_as(self.predictions[step])
            errors[step] = torch.einsum("ng,ngd->nd", self.guidance, returned) - self.guided[step]
            latent_error = torch.einsum("k,knd->nd", self.weights[step, : step + 1], errors[: step + 1])
        return (latent_error.square().sum(1) * self.scale).tolist()

    def _begin(self, genome: Genome) -> Run:
        """Begin a run of all cases at once, on rows of coefficients."""
        facts = RunFacts(SamplerProfile.of(self.setting.sigmas, solver=self.solver))
        settings = replace(resolve(make_plan(genome.schedule(self.setting.sigmas)), facts), budgets=genome.budgets)
        return Run(settings, facts)

    def _request(self, step: int, device: torch.device) -> CallRequest:
        rows = self.predictions[0].shape[:2].numel()
        return CallRequest(
            sigma=self.setting.sigmas[step],
            groups=(RowGroup("all", slice(0, rows)),),
            layout=TokenLayout(video=1),
            runner=None,
            attend=_no_attention,
            blocks=0,
            device=device,
        )

    def sensitivity(self, genome: Genome) -> tuple[float, ...]:
        """Return by step the mean loss if only that step is skipped; 0 for the first, which is always computed."""
        steps = self.setting.steps
        found = [0.0]
        for step in range(1, steps):
            budgets = [1.0] * steps
            budgets[step] = 0.0
            found.append(sum(self.losses(Genome(tuple(budgets), genome.forecast))) / self.cases)
        return tuple(found)


def make_solver(setting: SamplingConfig) -> Solver:
    """Make the solver that corrections use, from the sampler's weights; Euler's if they do not determine one."""
    if setting.weights is None or setting.starts is None:
        return Solver.from_sigmas(setting.sigmas)
    solver = Solver.from_impulse_response([[0.0] * setting.steps, *map(list, setting.weights)], setting.starts)
    return solver or Solver.from_sigmas(setting.sigmas)


def _in_basis(recording: Recording) -> tuple[Tensor, Tensor]:
    """Return the predictions as coefficients `[K, G, d]` in an orthonormal basis, and the guidance weights `[G]`."""
    flat = recording.predictions.flatten(0, 1).double()  # [K G, D]
    basis, _ = torch.linalg.qr(flat.T)
    coefficients = (flat @ basis).view(*recording.predictions.shape[:2], -1)
    rows = recording.predictions.double().transpose(1, 2).reshape(-1, recording.predictions.shape[1])
    mix = torch.linalg.lstsq(rows, recording.guided.double().reshape(-1, 1)).solution[:, 0]
    return coefficients.float(), mix.float()
