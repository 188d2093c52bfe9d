"""What a schedule of whole steps would cost in quality, from the dense runs alone: the engine's own forecasts and
corrections on the dense predictions, no model involved.

Reused predictions are off; so are then the latents, and so the next prediction that is computed: by the latents' error
times how strongly the model answers, which real runs show (`Outcome.responses`). Where that error points is not known,
so it is taken to keep its direction; what is left is good for ranking, not for the loss itself. All vectors are
combinations of the dense predictions, so they are held in a basis of those.
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
from ...engine.estimators import ExtrapolationGain
from ...engine.planning.plan import make_plan
from ...engine.planning.resolve import RunFacts, resolve
from ...engine.run import Run
from ...engine.sampler.profile import SamplerProfile
from ...engine.sampler.solver import Solver
from ...schedules import TIME_AXES, TimeAxis
from ..candidate import Genome
from ..problem import Outcome, Recording, SamplingConfig

UNKNOWN_RESPONSE = 1.0


class CaseGain(ExtrapolationGain):
    """As the engine's, with a gain for each case of its own. Rows: cases × conditionings."""

    def __init__(self, cases: int, prior: float, axis: TimeAxis):
        super().__init__(prior, axis)
        self._cases = cases

    def _sum(self, products: Tensor) -> Tensor:
        per_case = products.view(self._cases, -1).sum(1)
        return per_case.repeat_interleave(products.shape[0] // self._cases).unsqueeze(1)


def _no_attention(*_: Tensor, **__: bool) -> tuple[Tensor, None]:
    raise AssertionError("no block runs in a replay")


class Replay:
    """Losses of schedules of whole steps by the dense recordings.

    responses: by step, how strongly predictions answer to an error of the latents (ratio of norms).
    """

    def __init__(self, setting: SamplingConfig, recordings: Sequence[Recording]):
        if setting.weights is None:
            raise ValueError("a sampler whose weights are not known cannot be replayed")
        self.setting, self.cases = setting, len(recordings)
        self.weights = torch.tensor(setting.weights)
        self.solver = solver_of(setting)
        self.responses = [UNKNOWN_RESPONSE] * setting.steps
        parts = [_in_basis(recording) for recording in recordings]
        rank = max(part.shape[-1] for part, _ in parts)
        padded = [torch.nn.functional.pad(part, (0, rank - part.shape[-1])) for part, _ in parts]
        self.predictions = torch.stack(padded, 1)  # [K, N, G, d]
        self.guidance = torch.stack([mix for _, mix in parts])  # [N, G]
        self.guided = torch.einsum("ng,kngd->knd", self.guidance, self.predictions)
        self.scale = torch.tensor([1.0 / (r.final.numel() * r.peak**2) for r in recordings])
        self._known: dict[Genome, list[float]] = {}

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Take the responses from real runs: the median at each step, at others that of the nearest step known."""
        steps = range(self.setting.steps)
        seen = [[o.responses[k] for o in outcomes if k < len(o.responses)] for k in steps]
        known = {k: median(values) for k in steps if (values := [v for v in seen[k] if v is not None])}
        if known:
            self.responses = [known[min(known, key=lambda other: (abs(other - k), other))] for k in steps]
            self._known.clear()

    def losses(self, genome: Genome) -> list[float]:
        """One per case; see `problem`. Only whole steps can be replayed."""
        if genome not in self._known:
            if not genome.whole:
                raise ValueError("token steps cannot be replayed")
            self._known[genome] = self._replayed(genome)
        return self._known[genome]

    @torch.inference_mode()
    def _replayed(self, genome: Genome) -> list[float]:
        steps, run = self.setting.steps, self._begin(genome)
        errors = torch.zeros(steps, *self.guided.shape[1:])
        off = torch.zeros_like(self.guided[0])
        for step in range(steps):
            call = run.begin_call(self._request(step, off.device))
            if isinstance(call, ReuseCall):
                predicted = call.estimate()
            else:
                answered = self.predictions[step] + self.responses[step] * off.unsqueeze(1)
                predicted = answered.flatten(0, 1)
            returned = run.end_call(call, predicted).view_as(self.predictions[step])
            errors[step] = torch.einsum("ng,ngd->nd", self.guidance, returned) - self.guided[step]
            off = torch.einsum("k,knd->nd", self.weights[step, : step + 1], errors[: step + 1])
        return (off.square().sum(1) * self.scale).tolist()

    def _begin(self, genome: Genome) -> Run:
        """Begin a run of all cases at once, on rows of coefficients."""
        facts = RunFacts(SamplerProfile.of(self.setting.sigmas, solver=self.solver))
        settings = replace(resolve(make_plan(genome.schedule(self.setting.sigmas)), facts), budgets=genome.budgets)
        forecast = settings.forecast
        gain = CaseGain(self.cases, forecast.prior_gain, TIME_AXES[forecast.extrapolation_axis])
        return Run(settings, facts, gain=gain)

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
        """By step, the mean loss if it alone is reused; 0 for the first, which always is computed."""
        steps = self.setting.steps
        found = [0.0]
        for step in range(1, steps):
            budgets = [1.0] * steps
            budgets[step] = 0.0
            found.append(sum(self.losses(Genome(tuple(budgets), genome.forecast))) / self.cases)
        return tuple(found)


def solver_of(setting: SamplingConfig) -> Solver:
    """The sampler's weights as corrections use them; Euler's where it is not known what it carries on."""
    if setting.weights is None or setting.starts is None:
        return Solver.from_sigmas(setting.sigmas)
    solver = Solver.from_impulse_response([[0.0] * setting.steps, *map(list, setting.weights)], setting.starts)
    return solver or Solver.from_sigmas(setting.sigmas)


def _in_basis(recording: Recording) -> tuple[Tensor, Tensor]:
    """The predictions as coefficients `[K, G, d]` of an orthonormal basis, and the weights `[G]` of guidance."""
    flat = recording.predictions.flatten(0, 1).double()  # [K G, D]
    basis, _ = torch.linalg.qr(flat.T)
    coefficients = (flat @ basis).view(*recording.predictions.shape[:2], -1)
    rows = recording.predictions.double().transpose(1, 2).reshape(-1, recording.predictions.shape[1])
    mix = torch.linalg.lstsq(rows, recording.told.double().reshape(-1, 1)).solution[:, 0]
    return coefficients.float(), mix.float()
