"""Prior gains of forecast settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_runner import ToyRunner

from astraea.schedules import DEFAULT_FORECAST, Forecast
from astraea.search.ranking.forecast_priors import expected_forecast_gain, initial_forecasts, is_smooth

EXTRAPOLATING, HALF_CURVED, UNTRIED = (
    Forecast(0.25, "root", "root", 0.0),
    Forecast(curvature=0.5),
    Forecast(0.0, "sigma", "root"),
)


def setting(steps: int = 30, cfg: float | None = 3.0):
    facts = {} if cfg is None else {"sampling": {"cfg": cfg}}
    return replace(ToyRunner(steps=steps).setting, facts=facts)


@pytest.mark.parametrize(
    ("steps", "cfg", "smooth"), [(30, 3.0, True), (30, 6.0, False), (12, 1.0, False), (20, 4.0, True), (30, None, True)]
)
def test_fine_steps_and_mild_guidance_are_steady(steps, cfg, smooth):
    assert is_smooth(setting(steps, cfg)) is smooth


@pytest.mark.parametrize(("steps", "smooth"), [(30, True), (12, False)])
def test_a_part_of_a_run_is_as_steady_as_the_whole(steps, smooth):
    whole = replace(ToyRunner(steps=steps, shift=8.0).setting, facts=setting().facts)
    for sigmas in (whole.sigmas[: steps // 3 + 1], whole.sigmas[steps // 3 :]):
        assert is_smooth(replace(whole, sigmas=sigmas)) is smooth


def test_extrapolation_gains_with_fine_steps_and_loses_with_coarse_ones():
    fine, coarse = setting(), setting(steps=8)
    assert (
        expected_forecast_gain(EXTRAPOLATING, fine)
        > expected_forecast_gain(HALF_CURVED, fine)
        > expected_forecast_gain(DEFAULT_FORECAST, fine)
        == 0.0
    )
    assert expected_forecast_gain(HALF_CURVED, coarse) > 0.0 > expected_forecast_gain(EXTRAPOLATING, coarse)
    assert expected_forecast_gain(UNTRIED, fine) == expected_forecast_gain(UNTRIED, coarse) == 0.0
    assert expected_forecast_gain(Forecast(0.5), coarse) < 0.0 == expected_forecast_gain(Forecast(0.5), fine)
    mixed = Forecast(0.5, "sigma", "log-snr", 0.0)
    assert expected_forecast_gain(mixed, coarse) < 0.0 == expected_forecast_gain(mixed, fine)


def test_a_final_step_gain_is_expected_to_gain_everywhere():
    for here in (setting(), setting(cfg=7.0)):
        for forecast in (EXTRAPOLATING, HALF_CURVED, DEFAULT_FORECAST):
            assert expected_forecast_gain(replace(forecast, final_step_gain=0.35), here) > expected_forecast_gain(
                forecast, here
            )


def test_the_first_initial_forecast_has_the_largest_prior_gain():
    for here in (setting(), setting(cfg=7.0)):
        gains = [expected_forecast_gain(forecast, here) for forecast in initial_forecasts(here)]
        assert gains[0] == max(gains) > 0.0


def test_a_search_begins_with_the_largest_prior_gain_then_the_other_kind():
    fine, coarse = initial_forecasts(setting()), initial_forecasts(setting(cfg=7.0))
    assert set(fine) == set(coarse)
    assert len(set(fine)) == len(fine)
    assert fine[0].prior_gain > 0.0 == fine[1].prior_gain
    assert coarse[0].prior_gain == 0.0 < coarse[1].prior_gain
