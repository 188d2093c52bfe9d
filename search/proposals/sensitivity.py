"""Sensitivity probe: the loss of each step at each budget, from four runs of one case.

Full and partial steps alternate, so that each partial step follows a full one; two runs, one with odd and one with even
partial steps, show every step. Two runs with reuse steps in these places scale the losses, as those of reuse steps can
be replayed. Budgets are then allotted by Lagrange multipliers, as if losses added up: a candidate to evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..candidate import Genome, with_ends
from ..evaluation.evaluator import Evaluator
from ..evaluation.replay import Replay
from ..evaluation.step_cost import StepCost, measure_step_cost
from ..problem import Outcome, SamplingConfig

PROBED_BUDGET = 0.3


@dataclass(frozen=True)
class Sensitivity:
    """losses: by budget and step, of the final latents if only this step has this budget; step_cost: as measured."""

    losses: dict[float, tuple[float, ...]]
    step_cost: StepCost


def probe_sensitivity(evaluator: Evaluator, case: int, replay: Replay | None) -> Sensitivity | None:
    """Run the probe, at a cost of about 2.5 dense runs; None without replay or if a run is not finite."""
    if replay is None:
        return None
    setting = evaluator.setting
    partial = [_alternate(setting, PROBED_BUDGET, odd) for odd in (0, 1)]
    reused = [_alternate(setting, 0.0, odd) for odd in (0, 1)]
    if any(each.aborted for each in evaluator.evaluate([*partial, *reused], [case])):
        return None
    partial_losses, reuse_losses = (_losses_by_step(evaluator, each, case) for each in (partial, reused))
    alone = replay.sensitivity(partial[0])
    scaled = tuple(
        replayed * own / reuse if reuse > 0.0 else replayed
        for replayed, own, reuse in zip(alone, partial_losses, reuse_losses, strict=True)
    )

    def runs(genomes: list[Genome]) -> list[tuple[Genome, Outcome]]:
        return [(genome, evaluator.outcomes[case, genome]) for genome in genomes]

    cost = measure_step_cost(runs(partial), runs(reused), setting.evaluations)
    return Sensitivity({0.0: alone, PROBED_BUDGET: scaled}, cost)


def _alternate(setting: SamplingConfig, budget: float, odd: int) -> Genome:
    budgets = [budget if step % 2 == odd else 1.0 for step in range(setting.steps)]
    return Genome(tuple(with_ends([*budgets[:-1], 1.0], setting.sigmas)))


def _losses_by_step(evaluator: Evaluator, genomes: Sequence[Genome], case: int) -> list[float]:
    """Return by step the loss of the guided prediction in the run that does not compute the step in full."""
    losses = [evaluator.outcomes[case, genome].losses for genome in genomes]
    return [
        max(
            (loss[step] for loss, genome in zip(losses, genomes, strict=True) if genome.budgets[step] < 1.0),
            default=0.0,
        )
        for step in range(len(genomes[0].budgets))
    ]


def allot_budgets(sensitivity: Sensitivity, setting: SamplingConfig, budget: float) -> Genome:
    """Return budgets that minimise the sum of losses at this mean cost."""
    low, high = -40.0, 10.0  # log10 of the multiplier
    best = [1.0] * setting.steps
    for _ in range(60):
        middle = (low + high) / 2.0
        budgets = with_ends(_minimise(sensitivity, setting.steps, 10.0**middle), setting.sigmas)
        if sensitivity.step_cost.of_run(budgets, setting.evaluations) <= budget:
            best, high = budgets, middle
        else:
            low = middle
    return Genome(tuple(best))


def _minimise(sensitivity: Sensitivity, steps: int, multiplier: float) -> list[float]:
    """Return for each step the budget of least loss plus multiplier × cost."""

    def loss(step: int, budget: float) -> float:
        return 0.0 if budget == 1.0 else sensitivity.losses[budget][step]

    options, cost = sorted({*sensitivity.losses, 1.0}), sensitivity.step_cost.of
    return [
        min(options, key=lambda budget: (loss(step, budget) + multiplier * cost(budget), budget))
        for step in range(steps)
    ]
