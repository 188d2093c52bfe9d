"""Posterior gains of candidates, from few and varying gains."""

from __future__ import annotations

import math

import pytest

from astraea.search.evaluation.posterior_gain import (
    PSNR_CAP_DB,
    beats_baseline,
    measure_gains,
    posterior_gain,
    posterior_std,
    significantly_worse,
)


def losses(*decibels: float) -> list[float]:
    return [10.0 ** (-value / 10.0) for value in decibels]


def test_gains_are_taken_case_by_case_and_capped_where_invisible():
    gains = measure_gains(losses(40, 70, PSNR_CAP_DB + 5), losses(37, 55, PSNR_CAP_DB + 20))
    assert gains == pytest.approx([3.0, PSNR_CAP_DB - 55.0, 0.0])


def test_a_candidate_on_fewer_cases_is_compared_on_those():
    assert measure_gains(losses(40, 41), losses(38, 38, 10)) == pytest.approx([2.0, 3.0])


def test_more_cases_weigh_more_against_the_prior():
    few = posterior_gain(losses(42, 43, 41), losses(40, 40, 40), 0.0)
    many = posterior_gain(losses(*([42, 43, 41] * 5)), losses(*([40] * 15)), 0.0)
    assert 0.0 < few < many < 2.0


def test_of_two_with_the_same_mean_gain_the_steadier_is_preferred():
    steady = posterior_gain(losses(42, 42.5, 41.5, 42), losses(40, 40, 40, 40), 0.0)
    lucky = posterior_gain(losses(54, 36, 38, 40), losses(40, 40, 40, 40), 0.0)
    assert steady > 2.0 * lucky > 0.0


def test_without_evidence_the_prior_remains():
    assert posterior_gain(losses(60, 20, 60, 20), losses(40, 40, 40, 40), 0.5) == pytest.approx(0.5, abs=0.05)
    assert posterior_gain(losses(40), losses(40), 0.5) < 0.5


@pytest.mark.parametrize(
    ("gains", "ahead"),
    [
        ((1.0, -0.5, 0.2), True),
        ((-8.0, 1.0, 0.5, 2.0), True),  # behind in the mean because of one case
        ((9.0, -1.0, -0.5, -2.0), True),  # ahead in the mean because of one case
        ((-1.0, 0.2, -0.4), False),
        ((0.0, 0.0), False),
        ((-0.1,), False),
    ],
)
def test_a_candidate_beats_the_baseline_in_the_mean_or_on_most_cases(gains, ahead):
    assert beats_baseline(losses(*(40.0 + gain for gain in gains)), losses(*([40.0] * len(gains)))) is ahead


@pytest.mark.parametrize(
    ("gains", "behind"),
    [
        ((-4.0, -5.0, -6.0), True),
        ((-4.0, 5.0, -6.0), False),  # too much variance
        ((-3.0,), False),  # one case only
        ((-1.0,) * 3, False),
        ((-1.0,) * 16, True),
        ((2.0, 3.0), False),
    ],
)
def test_significantly_worse_needs_a_clear_mean_loss(gains, behind):
    assert significantly_worse(losses(*(40.0 + gain for gain in gains)), losses(*([40.0] * len(gains)))) is behind


def test_the_posterior_std_falls_with_more_cases_and_less_variance():
    reference = losses(*([40.0] * 16))
    steady, scattered = [41.0, 43.0] * 8, [36.0, 48.0] * 8
    assert posterior_std(losses(), reference, 1.5) == 1.5
    few, many = (posterior_std(losses(*steady[:count]), reference, 1.5) for count in (4, 16))
    assert 0.0 < many < few < 1.5
    assert many < posterior_std(losses(*scattered), reference, 1.5) < 1.5
    assert posterior_std(losses(*scattered), reference, 1e9) == pytest.approx(math.sqrt(36.0 * 16 / 15 / 16), rel=0.01)


def test_a_wider_prior_is_moved_more_by_runs():
    own, reference = losses(43, 42, 44), losses(40, 40, 40)
    assert posterior_gain(own, reference, 0.0, 0.5) < posterior_gain(own, reference, 0.0, 2.0) < 3.0
    assert posterior_gain(losses(), reference, 0.7) == 0.7
