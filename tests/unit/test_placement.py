"""Placement of computed steps: the best choice by the expected error, within the cost, on any list of noise levels."""

from __future__ import annotations

import math
import time
from itertools import combinations

import numpy as np
import pytest

from astraea.schedules import (
    DEFAULT_FORECAST,
    SamplerSteps,
    flow_sigmas,
    place_enough_steps,
    place_evenly,
    place_steps,
    usual_forecast,
)
from astraea.schedules.placement import ENOUGH_DB, ExpectedError

LTX = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
LISTS = {
    "LTX": LTX,
    "shift 10": (*flow_sigmas(8, 10.0), 0.0),
    "even": (*flow_sigmas(9, 1.0), 0.0),
    "a part": tuple(flow_sigmas(18, 5.0)[:9]),
}


def pattern(computed):
    return "".join("F" if each else "r" for each in computed)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("levels", LISTS.values(), ids=LISTS)
def test_no_other_choice_of_as_many_steps_has_a_smaller_expected_error(levels, guidance):
    steps, forecast = SamplerSteps.of_euler(levels), usual_forecast(guidance)
    error, last = ExpectedError(steps, forecast), steps.count - 1
    fixed = {0, last} if levels[-1] == 0.0 else {0}
    for number in range(2, steps.count):
        found = frozenset(step for step, each in enumerate(place_steps(steps, number, forecast)) if each)
        assert len(found) == number
        others = combinations(set(range(steps.count)) - fixed, number - len(fixed))
        assert error.of(found) <= 1.0001 * min(error.of(fixed | frozenset(other)) for other in others)


def test_steps_stand_where_nothing_corrects_them_later():
    """The last steps of the list of LTX are as large as all before them together."""
    assert pattern(place_steps(SamplerSteps.of_euler(LTX), 5, DEFAULT_FORECAST)) == "FrrrFFFF"


@pytest.mark.parametrize("levels", LISTS.values(), ids=LISTS)
def test_more_steps_leave_a_smaller_expected_error(levels):
    steps = SamplerSteps.of_euler(levels)
    error = ExpectedError(steps, DEFAULT_FORECAST)
    errors = [
        error.of(frozenset(step for step, each in enumerate(place_steps(steps, most, DEFAULT_FORECAST)) if each))
        for most in range(2, steps.count + 1)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("costs", [(2,) * 11 + (1,), (1,) + (2,) * 11, (3,) * 12])
def test_several_calls_a_step_are_paid_for(costs):
    steps = SamplerSteps.of_euler((*flow_sigmas(12), 0.0), costs)
    for most in range(max(costs) + costs[-1], sum(costs)):
        for place in (place_steps(steps, most, DEFAULT_FORECAST), place_evenly(steps, most)):
            spent = sum(cost for cost, computed in zip(costs, place, strict=True) if computed)
            assert most - max(costs) < spent <= most
            assert place[0]
            assert place[-1]


def test_progress_of_another_choice_saves_work_and_changes_nothing():
    steps = SamplerSteps.of_euler((*flow_sigmas(12), 0.0))
    error = ExpectedError(steps, DEFAULT_FORECAST)
    begun = error.follow(frozenset({0, 3, 6, 11}))
    moved = frozenset({0, 3, 8, 11})
    assert error.of(moved, begun, since=6) == pytest.approx(error.of(moved), rel=1e-12)


@pytest.mark.parametrize("count", [65, 200, 1000])
def test_long_runs_are_placed_at_once_and_evenly(count):
    steps = SamplerSteps.of_euler((*flow_sigmas(count), 0.0))
    began = time.perf_counter()
    assert place_steps(steps, count // 2, DEFAULT_FORECAST) == place_evenly(steps, count // 2)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("budget", [0.1, 0.25, 0.4])
@pytest.mark.parametrize("steps", [8, 12])
def test_a_part_that_ends_above_no_noise_needs_as_many_steps(steps, budget):
    """The high-noise expert of two: what it leaves to the other is judged by its own share of the latents."""
    forecast, levels = usual_forecast(1.0), flow_sigmas(steps, 8.0)[: steps // 2 + 1]
    part = SamplerSteps.of_euler(levels)
    placed = place_enough_steps(part, budget * part.count, forecast)
    computed = frozenset(step for step, each in enumerate(placed) if each)
    assert -10.0 * math.log10(ExpectedError(part, forecast).of(computed)) >= ENOUGH_DB
    assert len(computed) >= 2


def test_enough_steps_are_the_least_that_suffice():
    steps, forecast = SamplerSteps.of_euler((*flow_sigmas(24, 8.0), 0.0)), usual_forecast(1.0)
    error, enough = ExpectedError(steps, forecast), 10.0 ** (-ENOUGH_DB / 10.0)
    number = sum(place_enough_steps(steps, 2.0, forecast))
    placed = [place_steps(steps, most, forecast) for most in (number - 1, number)]
    computed = [frozenset(n for n, each in enumerate(choice) if each) for choice in placed]
    assert error.of(computed[0]) > enough >= error.of(computed[1])


def test_calls_that_no_step_could_move_to_are_spent_on_further_steps():
    costs = (1, 2, 2, 2) * 5
    steps = SamplerSteps.of_euler((*flow_sigmas(20), 0.0), costs)
    for most in range(6, sum(costs), 4):
        placed = place_steps(steps, most, DEFAULT_FORECAST)
        left = most - sum(cost for cost, each in zip(costs, placed, strict=True) if each)
        assert all(cost > left for cost, each in zip(costs, placed, strict=True) if not each)


@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_samplers_that_keep_no_latents_are_placed_in_time(guidance):
    """Each latents are one prediction and new noise (LCM): many moves lower the error."""
    levels, count = (*flow_sigmas(50), 0.0), 50
    rows = np.diag([1.0 - level for level in levels[1:]])
    steps = SamplerSteps(levels, (1,) * count, levels[:-1], tuple(range(count)), tuple(map(tuple, rows.tolist())))
    began = time.process_time()
    place_enough_steps(steps, 15.0, usual_forecast(guidance))
    assert time.process_time() - began < 10.0
