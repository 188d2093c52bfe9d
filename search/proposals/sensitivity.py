"""The sensitivity probe: what each budget at each step costs in quality, from four runs along a dense one.

Steps are computed in full and in part by turns, so that each one in part continues from a full one; two runs, one with
the odd steps in part and one with the even ones, show every step. Two more with reuse steps there tell how much worse
those are, whose losses are replayed. Budgets are then allotted by the method of Lagrange multipliers, as if what steps
cost added up: a seed, not a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..candidate import Genome, with_ends
from ..evaluation.evaluator import Evaluator
from ..evaluation.replay import Replay
from ..evaluation.step_cost import StepCost, measured
from ..problem import Outcome, SamplingConfig

PROBED = 0.3


@dataclass(frozen=True)
class Probe:
    """losses: by budget and step, of the final latents, if this step alone has this budget.

    prices: of steps in part.
    """

    losses: dict[float, tuple[float, ...]]
    prices: StepCost


def probe(judge: Evaluator, case: int, replay: Replay | None) -> Probe | None:
    """Costs about 2.5 dense-run equivalents; None where reuse steps cannot be replayed."""
    if replay is None:
        return None
    setting = judge.setting
    turns = [_by_turns(setting, PROBED, odd) for odd in (0, 1)]
    reused = [_by_turns(setting, 0.0, odd) for odd in (0, 1)]
    verdicts = judge.verdicts([*turns, *reused], [case])
    if any(verdict.given_up for verdict in verdicts):
        return None
    told = {PROBED: _told(judge, turns, case), 0.0: _told(judge, reused, case)}
    alone = replay.sensitivity(turns[0])
    in_part = tuple(
        whole * part / reuse if reuse > 0.0 else whole
        for whole, part, reuse in zip(alone, told[PROBED], told[0.0], strict=True)
    )

    def runs(genomes: list[Genome]) -> list[tuple[Genome, Outcome]]:
        return [(genome, judge.outcomes[case, genome]) for genome in genomes]

    return Probe({0.0: alone, PROBED: in_part}, measured(runs(turns), runs(reused), setting.evaluations))


def _by_turns(setting: SamplingConfig, budget: float, odd: int) -> Genome:
    turns = [budget if step % 2 == odd else 1.0 for step in range(setting.steps)]
    return Genome(tuple(with_ends([*turns[:-1], 1.0], setting.sigmas)))


def _told(judge: Evaluator, genomes: Sequence[Genome], case: int) -> list[float]:
    """By step, how far what was told was off where it was not computed in full."""
    losses = [judge.outcomes[case, genome].losses for genome in genomes]
    return [
        max(
            (loss[step] for loss, genome in zip(losses, genomes, strict=True) if genome.budgets[step] < 1.0),
            default=0.0,
        )
        for step in range(len(genomes[0].budgets))
    ]


def allotted(found: Probe, setting: SamplingConfig, budget: float) -> Genome:
    """Budgets per step that minimise the sum of losses plus a price on what is computed, so that the budget is kept."""
    low, high = -40.0, 10.0  # log10 of the price
    best = [1.0] * setting.steps
    for _ in range(60):
        middle = (low + high) / 2.0
        budgets = with_ends(_cheapest(found, setting.steps, 10.0**middle), setting.sigmas)
        if found.prices.of_run(budgets, setting.evaluations) <= budget:
            best, high = budgets, middle
        else:
            low = middle
    return Genome(tuple(best))


def _cheapest(found: Probe, steps: int, price: float) -> list[float]:
    def at(step: int, budget: float) -> float:
        return 0.0 if budget == 1.0 else found.losses[budget][step]

    options, cost = sorted({*found.losses, 1.0}), found.prices.of
    return [min(options, key=lambda budget: (at(step, budget) + price * cost(budget), budget)) for step in range(steps)]
