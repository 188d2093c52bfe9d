"""Plots and texts of a finished search."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import pytest
from searches import NOTHING, found, partial, result

from astraea.host.search.view import SearchRun
from astraea.nodes.plots.drawing import Axis, spread
from astraea.nodes.plots.search import draw_search
from astraea.nodes.search_text import search_text


def test_all_plots_have_one_size_whatever_was_found() -> None:
    part = dataclasses.replace(result((0.5,)), best=(partial(0.5, 33.0),), sensitivity=())
    many = result((0.95, 0.6, 0.58, 0.5, 0.45, 0.4, 0.3, 0.2), finished=False)
    lost = dataclasses.replace(result(), tried=((0.0, 1.0), (3.0, math.inf), (3.0, 0.0)), sensitivity=(math.inf,) * 30)
    for each in (result(), part, many, lost, result((0.4,)), NOTHING):
        assert {plot.size for plot in draw_search(each)} == {(1040, 660)}


@pytest.mark.parametrize("places", [[10.0, 11.0, 12.0], [90.0, 95.0, 99.0], [5.0], [], [50.0, 10.0, 51.0]])
def test_labels_are_moved_apart_within_their_bounds(places: list[float]) -> None:
    moved = sorted(spread(places, 10.0, 0.0, 100.0))
    assert all(after - before >= 10.0 - 1e-9 for before, after in pairwise(moved))
    assert all(0.0 <= place <= 100.0 for place in moved)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (21.3, 24.9), (-3.0, 1000.0), (1.99, 2.01)])
def test_ticks_are_few_and_within_the_scale(low: float, high: float) -> None:
    ticks = Axis(low, high, 0, 1).ticks()
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-6 <= tick <= high + 1e-6 for tick in ticks)


def test_the_text_has_the_result_expected_of_each_schedule() -> None:
    outcome = result((0.5, 0.3))
    schedules = tuple(each.schedule.renamed(f"mine-{each.budget:.2f}") for each in outcome.best)
    text = search_text(SearchRun(outcome, schedules, Path("folder"), 90, 40), (0.5, 0.4, 0.3))
    assert "90 candidate runs, 40 of them taken from before" in text
    assert "Budget 0.50: mine-0.50\n  expected: 2.00x the speed, 35.0 dB" in text
    assert "+2.5 dB against 'auto' (32.5 dB at 2.00x), closer on 2 of 2 clips" in text
    assert "Budget 0.40: nothing found" in text
    assert "Saved in folder" in text
    unimproved = dataclasses.replace(outcome, best=(found(0.5, 32.5, is_baseline=True),))
    assert "nothing is expected to beat" in search_text(
        SearchRun(unimproved, schedules[:1], Path("folder"), 9, 0), (0.5,)
    )


def test_the_text_has_the_tokens_and_the_time_of_partial_steps() -> None:
    part = partial(0.5, 33.0)
    outcome = dataclasses.replace(result((0.5, 0.4)), best=(part, found(0.4, 30.0)))
    schedules = (part.schedule.renamed("mine-0.50"), found(0.4, 30.0).schedule.renamed("mine-0.40"))
    text = search_text(SearchRun(outcome, schedules, Path("folder"), 9, 0), (0.5, 0.4))
    assert f"computes {part.schedule.mean_budget:.0%} of the video in the time of 50%, compared" in text
    assert f"computes {schedules[1].mean_budget:.0%} of the steps, compared" in text
