"""What a schedule of whole steps would cost in quality, from the dense runs alone: the engine's own forecasts and
corrections on the dense predictions, no model involved.

Reused predictions are off; so are then the latents, and so the next prediction that is computed: by the latents' error
times how strongly the model answers, which real runs show (`Outcome.responses`). Where that error points is not known,
so it is taken to keep its direction; what is left is good for ranking, not for the loss itself. All vectors are
combinations of the dense predictions, so they are held in a basis of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from ...engine.estimators import Trial
from ...engine.interface import RowGroup, TokenLayout
from ...engine.plan import Plan, make_plan
from ...engine.run import CallSite, Run
from ...engine.sampler_profile import SamplerProfile
from ...engine.solver import Solver
from ..candidate import Genome
from ..problem import Outcome, Recording, Setting

UNKNOWN_RESPONSE = 1.0


class CaseTrial(Trial):
    """As the engine's, with a damping for each case of its own. Rows: cases × conditionings."""

    cases = 1

    def _sum(self, products: Tensor) -> Tensor:
        per_case = products.view(self.cases, -1).sum(1)
        return per_case.repeat_interleave(products.shape[0] // self.cases).unsqueeze(1)


class ReplayRun(Run):
    """A run of all cases at once, on rows of coefficients."""

    def __init__(self, plan: Plan, cases: int, budgets: Sequence[float], sigmas: Sequence[float], solver: Solver):
        self._cases = cases
        super().__init__(plan, sigmas, profile=SamplerProfile.of(sigmas, solver=solver))
        self.budgets = list(budgets)

    def _new_trial(self) -> Trial:
        trial = CaseTrial(self.forecast.expected, self.curves.along)
        trial.cases = self._cases
        return trial


class Replay:
    """Losses of schedules of whole steps by the dense recordings.

    responses: by step, how strongly predictions answer to an error of the latents (ratio of norms).
    """

    def __init__(self, setting: Setting, recordings: Sequence[Recording]):
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
        self.told = torch.einsum("ng,kngd->knd", self.guidance, self.predictions)
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
        sigmas, steps = self.setting.sigmas, self.setting.steps
        run = ReplayRun(make_plan(genome.schedule(sigmas)), self.cases, genome.budgets, sigmas, self.solver)
        errors = torch.zeros(steps, *self.told.shape[1:])
        off = torch.zeros_like(self.told[0])
        group, layout = RowGroup("all", slice(0, self.predictions[0].shape[:2].numel())), TokenLayout(video=1)
        for step in range(steps):
            site = CallSite(sigmas[step], (group,), layout, None, None, 1, off.device)  # type: ignore[arg-type]
            call = run.open_call(site)
            if call.kind == "reuse":
                predicted = call.estimate()  # type: ignore[attr-defined]
            else:
                answered = self.predictions[step] + self.responses[step] * off.unsqueeze(1)
                predicted = answered.flatten(0, 1)
            told = run.close_call(call, predicted).view_as(self.predictions[step])
            errors[step] = torch.einsum("ng,ngd->nd", self.guidance, told) - self.told[step]
            off = torch.einsum("k,knd->nd", self.weights[step, : step + 1], errors[: step + 1])
        return (off.square().sum(1) * self.scale).tolist()

    def sensitivity(self, forecast_of: Genome) -> tuple[float, ...]:
        """By step, the mean loss if it alone is reused; 0 for the first, which always is computed."""
        steps = self.setting.steps
        found = [0.0]
        for step in range(1, steps):
            budgets = [1.0] * steps
            budgets[step] = 0.0
            found.append(sum(self.losses(Genome(tuple(budgets), forecast_of.forecast))) / self.cases)
        return tuple(found)


def solver_of(setting: Setting) -> Solver:
    """The sampler's weights as corrections use them; Euler's where it is not known what it carries on."""
    if setting.weights is None or setting.starts is None:
        return Solver.of_levels(setting.sigmas)
    solver = Solver.of_responses([[0.0] * setting.steps, *map(list, setting.weights)], setting.starts)
    return solver or Solver.of_levels(setting.sigmas)


def _in_basis(recording: Recording) -> tuple[Tensor, Tensor]:
    """The predictions as coefficients `[K, G, d]` of an orthonormal basis, and the weights `[G]` of guidance."""
    flat = recording.predictions.flatten(0, 1).double()  # [K G, D]
    basis, _ = torch.linalg.qr(flat.T)
    coefficients = (flat @ basis).view(*recording.predictions.shape[:2], -1)
    rows = recording.predictions.double().transpose(1, 2).reshape(-1, recording.predictions.shape[1])
    mix = torch.linalg.lstsq(rows, recording.told.double().reshape(-1, 1)).solution[:, 0]
    return coefficients.float(), mix.float()
