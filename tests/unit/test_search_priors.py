"""What a search expects of ways to forecast before it has run any."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_runner import ToyRunner

from astraea.schedules import DEFAULT_FORECAST, Forecast
from astraea.search.proposals.priors import initial_forecasts, is_smooth, prior_gain

TRUST, HALF_BENT, NEVER_TRIED = (
    Forecast(0.25, "root", "root", 0.0),
    Forecast(curvature=0.5),
    Forecast(0.0, "sigma", "root"),
)


def setting(steps: int = 30, cfg: float | None = 3.0):
    facts = {} if cfg is None else {"sampling": {"cfg": cfg}}
    return replace(ToyRunner(steps=steps).setting, facts=facts)


@pytest.mark.parametrize(
    ("steps", "cfg", "steady"), [(30, 3.0, True), (30, 6.0, False), (12, 1.0, False), (20, 4.0, True), (30, None, True)]
)
def test_fine_steps_and_mild_guidance_are_steady(steps, cfg, steady):
    assert is_smooth(setting(steps, cfg)) is steady


@pytest.mark.parametrize(("steps", "steady"), [(30, True), (12, False)])
def test_a_part_of_a_run_is_as_steady_as_the_whole(steps, steady):
    whole = replace(ToyRunner(steps=steps, shift=8.0).setting, facts=setting().facts)
    for sigmas in (whole.sigmas[: steps // 3 + 1], whole.sigmas[steps // 3 :]):
        assert is_smooth(replace(whole, sigmas=sigmas)) is steady


def test_trust_is_expected_to_gain_where_steps_are_fine_and_to_lose_where_they_are_not():
    fine, coarse = setting(), setting(steps=8)
    assert prior_gain(TRUST, fine) > prior_gain(HALF_BENT, fine) > prior_gain(DEFAULT_FORECAST, fine) == 0.0
    assert prior_gain(HALF_BENT, coarse) > 0.0 > prior_gain(TRUST, coarse)
    assert prior_gain(NEVER_TRIED, fine) == prior_gain(NEVER_TRIED, coarse) == 0.0
    assert prior_gain(Forecast(0.5), coarse) < 0.0 == prior_gain(Forecast(0.5), fine)
    mixed = Forecast(0.5, "sigma", "log-snr", 0.0)
    assert prior_gain(mixed, coarse) < 0.0 == prior_gain(mixed, fine)


def test_an_answer_of_the_last_step_is_expected_to_gain_everywhere():
    for here in (setting(), setting(cfg=7.0)):
        for way in (TRUST, HALF_BENT, DEFAULT_FORECAST):
            assert prior_gain(replace(way, final_step_gain=0.35), here) > prior_gain(way, here)


def test_most_is_expected_of_what_a_search_begins_with():
    for here in (setting(), setting(cfg=7.0)):
        gains = [prior_gain(way, here) for way in initial_forecasts(here)]
        assert gains[0] == max(gains) > 0.0


def test_a_search_begins_with_what_promises_most_and_then_the_other_kind():
    fine, coarse = initial_forecasts(setting()), initial_forecasts(setting(cfg=7.0))
    assert set(fine) == set(coarse)
    assert len(set(fine)) == len(fine)
    assert fine[0].prior_gain > 0.0 == fine[1].prior_gain
    assert coarse[0].prior_gain == 0.0 < coarse[1].prior_gain
