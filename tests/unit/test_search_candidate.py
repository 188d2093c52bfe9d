"""Parts of the search without a model: mutation and crossover, predicted step times."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from astraea.schedules import Forecast
from astraea.search.evaluation.step_time import MAX_RUNS, StepSeconds
from astraea.search.methods.paper import BUDGETS, block_crossover, repair
from astraea.search.problem.candidate import (
    ONSETS,
    REACHES,
    RESPONSES,
    Genome,
    change_forecast,
    fill_budget,
    longest_skip,
    mean_budget,
    move_steps,
    uniform_crossover,
    with_ends,
)
from astraea.search.problem.runner import Outcome

EVEN, HEUN = [1] * 12, [1] + [2] * 11
SEEDS = pytest.mark.parametrize("seed", range(6))
CALLS = pytest.mark.parametrize("calls_per_step", [EVEN, HEUN, [2] * 11 + [1]], ids=["one call", "heun", "midpoint"])


def step_skipping(rng: random.Random, steps: int = 12) -> Genome:
    return Genome((1.0, *(float(rng.random() < 0.4) for _ in range(steps - 2)), 1.0))


def sizes(rng: random.Random, steps: int = 12) -> list[float]:
    return with_ends([rng.randrange(11) / 10 for _ in range(steps)], [1.0] * steps + [0.0])


@SEEDS
@CALLS
@pytest.mark.parametrize("budget", [0.2, 0.5, 0.8])
def test_repair_lands_in_the_band_and_keeps_the_ends(seed, calls_per_step, budget):
    rng = random.Random(seed)
    low, high = 0.9 * budget, 1.1 * budget
    budgets = repair(sizes(rng), calls_per_step, (low, high), rng)
    assert low <= mean_budget(budgets, calls_per_step) <= high
    assert budgets[0] == 1.0
    assert budgets[-1] >= 0.5


@SEEDS
def test_repair_leaves_alone_what_is_in_the_band(seed):
    rng = random.Random(seed)
    budgets = sizes(rng)
    mean = mean_budget(budgets, EVEN)
    assert repair(budgets, EVEN, (mean - 0.01, mean + 0.01), rng) == budgets


def test_repair_ends_where_the_band_cannot_be_reached():
    budgets = repair([1.0, 0.5, 0.5], [1, 1, 1], (0.0, 0.1), random.Random(0))
    assert budgets == [1.0, 0.0, 0.5]


@SEEDS
def test_uniform_crossover_takes_each_step_from_a_parent(seed):
    rng = random.Random(seed)
    a, b = sizes(rng), sizes(rng)
    child = uniform_crossover(a, b, rng)
    assert all(x in parents for x, parents in zip(child, zip(a, b, strict=True), strict=True))


def test_uniform_crossover_takes_from_both_parents_alike():
    child = uniform_crossover([0.0] * 1000, [1.0] * 1000, random.Random(0))
    assert 450 < sum(child) < 550


@SEEDS
def test_block_crossover_takes_one_segment_from_the_second_parent(seed):
    child = block_crossover([0.0] * 12, [1.0] * 12, random.Random(seed))
    borders = sum(x != y for x, y in zip([0.0, *child], [*child, 0.0], strict=True))
    assert borders == 2


@SEEDS
@pytest.mark.parametrize("moves", [0, 1, 2, 7])
def test_moves_keep_the_number_of_computed_steps_and_the_ends(seed, moves):
    rng = random.Random(seed)
    genome = step_skipping(rng)
    child = move_steps(genome, rng, moves)
    assert sorted(child.budgets) == sorted(genome.budgets)
    assert (child.budgets[0], child.budgets[-1]) == (1.0, 1.0)
    assert (child.forecast, child.mode) == (genome.forecast, genome.mode)


@SEEDS
def test_one_move_takes_one_step_at_most_three_places(seed):
    rng = random.Random(seed)
    genome = step_skipping(rng)
    changed = [
        k for k, (x, y) in enumerate(zip(genome.budgets, move_steps(genome, rng).budgets, strict=True)) if x != y
    ]
    assert len(changed) in (0, 2)
    assert not changed or changed[1] - changed[0] <= 3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_without_a_step_to_move_nothing_changes(steps):
    genome = Genome((1.0,) * steps)
    assert move_steps(genome, random.Random(0), 3) == genome


@SEEDS
def test_another_forecast_is_a_neighbour(seed):
    now = Forecast(ONSETS[1], REACHES[1], RESPONSES[1], 3.0)
    other = change_forecast(Genome((1.0, 0.0, 1.0), now), random.Random(seed)).forecast
    same = [before == after for before, after in zip(vars(now).values(), vars(other).values(), strict=True)]
    assert same.count(False) == 1
    assert other.swing == now.swing


@SEEDS
@pytest.mark.parametrize("target", [0.3, 0.5, 0.75, 1.0])
def test_as_many_steps_as_the_budget_allows(seed, target):
    rng = random.Random(seed)
    genome = fill_budget(step_skipping(rng), EVEN, target, rng)
    assert sum(genome.budgets) == int(12 * target)


@SEEDS
@CALLS
def test_never_more_steps_than_the_budget_allows(seed, calls_per_step):
    rng = random.Random(seed)
    genome = fill_budget(step_skipping(rng), calls_per_step, 0.45, rng)
    spent = mean_budget(genome.budgets, calls_per_step)
    assert 0.45 - 2 / sum(calls_per_step) < spent <= 0.45 + 1e-6
    assert (genome.budgets[0], genome.budgets[-1]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("budgets", "longest"), [((1.0, 1.0), 0), ((1.0, 0.0, 0.3, 0.0, 0.0, 1.0), 2), ((1.0, 0.0, 0.0, 0.0), 3)]
)
def test_the_longest_skip_is_the_most_steps_in_a_row_that_are_not_computed(budgets, longest):
    assert longest_skip(budgets) == longest


def outcome(budgets: tuple[float, ...], seconds: tuple[float, ...]) -> tuple[Genome, Outcome]:
    return Genome(budgets), Outcome(0.1, len(budgets), (0.1,) * len(budgets), 1.0, seconds, ("full",) * len(budgets))


def seconds_of(points: dict[float, float]) -> StepSeconds:
    seconds = StepSeconds()
    seconds.add(*outcome((1.0, *points), (9.0, *points.values())))
    return seconds


def test_measured_steps_take_what_they_took():
    points = {0.0: 0.01, 0.3: 0.5, 1.0: 1.2}
    seconds = seconds_of(points)
    assert {budget: seconds.of(budget) for budget in points} == points


def test_a_runs_first_step_does_not_count():
    assert seconds_of({1.0: 2.0}).of(1.0) == 2.0


def test_one_hiccup_does_not_count():
    seconds = StepSeconds()
    seconds.add(*outcome((1.0,) * 6, (9.0, 1.0, 1.0, 50.0, 1.0, 1.0)))
    assert seconds.of(1.0) == 1.0


def test_only_the_newest_runs_count():
    seconds = StepSeconds()
    for each in [1.0] * (MAX_RUNS + 1) + [2.0] * MAX_RUNS:
        seconds.add(*outcome((1.0, 1.0), (9.0, each)))
    assert seconds.of(1.0) == 2.0


def test_between_measured_budgets_along_a_line():
    seconds = seconds_of({0.0: 0.01, 0.2: 0.3, 0.6: 0.7, 1.0: 2.0})
    assert seconds.of(0.3) == pytest.approx(0.4)
    assert seconds.of(0.8) == pytest.approx(1.35)


def test_below_the_least_token_step_along_the_token_steps_line():
    assert seconds_of({0.0: 0.01, 0.2: 0.3, 0.6: 0.7}).of(0.1) == pytest.approx(0.2)


def test_a_token_step_is_not_drawn_towards_reuse_steps():
    assert seconds_of({0.0: 0.01, 1.0: 1.0}).of(0.5) == pytest.approx(0.5)


def test_before_anything_is_known_a_full_step_is_the_unit():
    assert [StepSeconds().of(budget) for budget in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


def test_a_run_takes_what_its_calls_take():
    seconds = seconds_of({0.0: 0.1, 1.0: 2.0})
    assert seconds.of_run(Genome((1.0, 0.0, 1.0)), (1, 1, 1)) == pytest.approx(4.1)
    assert seconds.of_run(Genome((1.0, 0.0, 1.0)), (2, 2, 1)) == pytest.approx(3.1)
    assert seconds.of_dense((1, 1, 1)) == pytest.approx(6.0)
    assert seconds.of_dense((2, 2, 1)) == pytest.approx(5.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_mean_budget_is_rounded_once_whatever_the_python(seed):
    """The built-in sum is compensated from Python 3.12 on, and a repair ends by the last bit of a mean."""
    rng = random.Random(seed)
    budgets, calls_per_step = rng.choices(BUDGETS, k=30), rng.choices((1, 2), k=30)
    exact = sum((Fraction(budget) * calls for budget, calls in zip(budgets, calls_per_step, strict=True)), Fraction())
    assert mean_budget(budgets, calls_per_step) == float(exact) / sum(calls_per_step)
