"""Prior gains of forecast settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_runner import ToyRunner

from astraea.schedules import DEFAULT_FORECAST, usual_forecast
from astraea.search.ranking.forecast_priors import expected_forecast_gain, initial_forecasts


def setting(cfg: float | None = 3.0):
    facts = {} if cfg is None else {"sampling": {"cfg": cfg}}
    return replace(ToyRunner().setting, facts=facts)


@pytest.mark.parametrize("cfg", [None, 1.0, 3.0, 7.0])
def test_a_search_begins_with_the_settings_that_auto_takes(cfg):
    here = setting(cfg)
    usual, *others = initial_forecasts(here)
    assert usual == usual_forecast(cfg)
    assert expected_forecast_gain(usual, here) == 0.0
    assert others
    assert len({usual, *others}) == 1 + len(others)
    assert all(expected_forecast_gain(other, here) < 0.0 for other in others)


def test_settings_that_differ_more_are_expected_to_lose_more():
    once = replace(DEFAULT_FORECAST, reach=1.5)
    twice = replace(once, response=0.0)
    assert expected_forecast_gain(twice, setting(1.0)) < expected_forecast_gain(once, setting(1.0)) < 0.0
