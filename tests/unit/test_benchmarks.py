"""The arithmetic between benchmark rows and the figures that the documentation states."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    import quality_derived

    yield quality_derived
    sys.modules.pop("quality_derived")


def row(family: str, kind: str, setting: float, psnr: float, speed: float, cost: float) -> dict[str, Any]:
    return {
        "name": f"{family} {setting:g}",
        "family": family,
        "kind": kind,
        "budget": setting,
        "psnr": {"mean": psnr, "all": [psnr - 1.0, psnr + 1.0]},
        "temporal_psnr": {"mean": psnr - 10},
        "speedup": {"total": speed, "all": [speed, speed]},
        "computed_share": cost,
        "cost": {"1.3B": cost, "14B": min(1.0, cost + 0.05)},
    }


def test_a_cache_is_read_off_between_its_thresholds(derived: ModuleType) -> None:
    points = [(1.0, 50.0), (2.0, 40.0), (3.0, 20.0)]
    assert derived.value_at(points, 1.5) == (45.0, "interpolated")
    assert derived.value_at(points, 4.0) == (20.0, "beyond its fastest: taken there")
    assert derived.value_at([*points, (3.5, 48.0)], 1.5) == (48.0, "a point at least as fast")
    assert derived.value_at([], 2.0)[0] is None


def test_controls_are_compared_at_equal_cost_not_at_equal_tokens(derived: ModuleType) -> None:
    rows = [
        row("bundled", "default", 0.5, 50.0, 2.0, 0.50),
        row("uniform, paper", "control", 0.5, 48.0, 1.8, 0.56),
        row("uniform, paper", "control", 0.4, 36.0, 2.2, 0.46),
        row("whole steps, hold", "control", 0.5, 45.0, 2.0, 0.50),
        row("EasyCache", "EasyCache", 0.1, 30.0, 2.0, 0.50),
    ]
    (found,) = derived.derive(rows)
    assert found["minus_easycache"] == found["minus_easycache_same_tokens"] == pytest.approx(20.0)
    assert found["minus_easycache_temporal"] == pytest.approx(20.0)
    assert found["best_control 1.3B"] == "whole steps, hold"
    assert found["minus_best_control 1.3B"] == pytest.approx(5.0)
    assert 2.0 < found["minus_paper 1.3B"] < 14.0  # between its two points: neither is at the cost itself
    assert found["minus_easycache_pairs"] == [pytest.approx(20.0)] * 2
    assert found["minus_best_control_pairs 1.3B"] == [pytest.approx(5.0)] * 2
    assert found["minus_lazycache"] is None


def test_a_control_whose_every_point_costs_more_is_no_partner(derived: ModuleType) -> None:
    rows = [
        row("bundled", "default", 0.3, 50.0, 3.0, 0.30),
        row("uniform, paper", "control", 0.3, 48.0, 2.0, 0.40),
    ]
    (found,) = derived.derive(rows)
    assert found["best_control 1.3B"] is None
    assert found["minus_paper 1.3B"] is None


def test_a_control_measured_on_fewer_pairs_is_compared_on_those(derived: ModuleType) -> None:
    rows = [
        row("bundled", "default", 0.5, 50.0, 2.0, 0.50),
        row("whole steps, hold", "control", 0.5, 40.0, 2.0, 0.50),
    ]
    rows[1]["psnr"] = {"mean": 39.0, "all": [39.0]}  # the first pair is a hard one: both lose a decibel on it
    (found,) = derived.derive(rows)
    assert found["minus_best_control 1.3B"] == pytest.approx(10.0)
