"""The plan of sparse attention, its figures, and the grid of tokens of models without a file."""

from __future__ import annotations

import math

import pytest

from astraea.engine.blocks.interface import TokenLayout
from astraea.engine.sparse.figures import MAX_REASONS, SparseFigures
from astraea.engine.sparse.plan import SparsePlan
from astraea.errors import BudgetError
from astraea.models.token_grid import guessed_layout, patch_of

# --- the grid of a model without a file -----------------------------------------------------------------------


class Model:
    """The part of a host's model that states its patch."""

    def __init__(self, **names):
        vars(self).update(names)


@pytest.mark.parametrize(
    ("model", "patch"),
    [
        (Model(), (1, 1, 1)),
        (Model(patch_size=(1, 2, 2)), (1, 2, 2)),
        (Model(patch_size=[2, 2]), (1, 2, 2)),
        (Model(patch_size=2), (1, 2, 2)),
        (Model(patch_size=2, patch_size_t=4), (4, 2, 2)),
        (Model(patch_spatial=2, patch_temporal=1), (1, 2, 2)),
        (Model(patch_size="2"), (1, 1, 1)),
        (Model(patch_size=(2,)), (1, 1, 1)),
        (Model(patch_size=(0, 0, 0)), (1, 1, 1)),
        (Model(patch_size=2, patch_size_t=None), (1, 2, 2)),
    ],
)
def test_the_patch_that_a_model_states(model, patch):
    assert patch_of(model) == patch


def test_the_grid_follows_from_latent_and_patch():
    model = Model(patch_size=(1, 2, 2))
    assert guessed_layout(model, (1, 16, 5, 9, 12), {}) == TokenLayout(5 * 5 * 6, grid=(5, 5, 6))
    assert guessed_layout(model, (1, 16, 9, 12), {}) == TokenLayout(30, grid=(1, 5, 6))
    assert guessed_layout(model, (1, 16, 70), {}) == TokenLayout(70)
    packed = {"latent_shapes": [(1, 16, 3, 4, 4), (1, 8, 70)]}
    assert guessed_layout(model, (1, 1, 9000), packed) == TokenLayout(12, grid=(3, 2, 2))


# --- the plan, and figures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"density": 0.01}, "density 0.01 of sparse attention is outside 0.05...1"),
        ({"density": math.nan}, "density nan"),
        ({"limit": -0.1}, "limit"),
        ({"dense_start": 1.5}, "dense_start"),
        ({"choice": "best"}, "choice 'best' is unknown; choose one of auto, routing, rainfusion"),
        ({"rest": "keep"}, "rest 'keep'"),
        ({"kernel": "mine"}, "kernel 'mine'"),
        ({"min_tokens": -1}, "min_tokens -1"),
    ],
)
def test_plans_outside_their_range_are_refused(fields, message):
    with pytest.raises(BudgetError, match=message):
        SparsePlan(**fields)


def test_gains_are_told_where_they_are_known():
    figures = SparseFigures(calls=1, milliseconds=[(3.0, 1.5)], steps=4)
    calls = [(False, 99.0, "one"), (False, 88.0, "other"), (False, 4.0, "one")]
    calls += [(True, 1.0, "one"), (True, 2.0, "other"), (True, 9.0, "one")]
    for is_sparse, seconds, device in calls:
        figures.add_call(is_sparse, lambda seconds=seconds: seconds, device)
    assert figures.step_speedup is None
    figures.resolve()
    assert figures.seconds == {False: [4.0], True: [1.0, 2.0, 9.0]}  # the first call on a device also loads
    assert figures.step_speedup == 2.0
    assert "attention 2.00x as fast, steps 2.00x as fast" in figures.line()
    assert (figures.error, figures.worst, figures.computed_share) == (None, None, 1.0)


def test_notes_name_the_commonest_reasons_only():
    figures = SparseFigures(remarks={"b", "a"})
    for count in range(7):
        figures.dense[f"reason {count}"] = count
    figures.dense[""] = 100
    notes = figures.notes()
    stayed = [f"{count} calls stayed dense: reason {count}" for count in (6, 5, 4, 3)]
    assert len(stayed) == MAX_REASONS
    assert notes == [f"sparse attention: {text}" for text in [*stayed, "a", "b"]]
