"""Whole steps: how many a budget pays for, and where they stand."""

from __future__ import annotations

import pytest

from astraea.schedules import without_partial_steps


def test_without_fractions_the_first_step_is_computed_and_so_is_a_last_one_in_part():
    """What the last one owes is not taken from the first: before it there is nothing to reuse."""
    assert without_partial_steps([1.0, 0.4, 0.4, 0.5], [1] * 4) == [1.0, 0.0, 0.0, 1.0]
    assert without_partial_steps([0.4, 0.4, 0.0], [2, 1, 1])[0] == 1.0
    assert without_partial_steps([0.5], [1]) == [1.0]


@pytest.mark.parametrize(
    ("budgets", "steps"),
    [
        ([0.5] * 12, "FrFrFrrFrFrF"),
        ([1.0] + [0.4546] * 11, "FrFrFrrFrFrF"),
        ([1.0, 0.05, 0.05, 0.9, 0.05, 0.05, 0.9, 0.05, 0.05, 0.9], "FrrFrrFrrF"),
        ([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], "FrrFrF"),
    ],
)
def test_steps_for_fractions_are_spread_over_the_run(budgets, steps):
    """The cost of a full last step is saved on all alike: on those behind the first, it would leave a gap of three."""
    whole = without_partial_steps(budgets, [1] * len(budgets))
    assert "".join("F" if budget else "r" for budget in whole) == steps
