"""Estimators recover what they claim to, and stay finite where little is known."""

from __future__ import annotations

import pytest
import torch

from astraea.engine.blocks.selection import Selection
from astraea.engine.estimators import ESTIMATORS
from astraea.engine.estimators.tokens.forecast import MAX_STEP_RATIO, token_step_ratios
from astraea.engine.estimators.tokens.refit import fit_drift
from astraea.engine.estimators.tokens.scaled_refit import change_weights


def residuals(rows=2, tokens=400, dim=16, seed=0):
    return torch.randn(rows, tokens, dim, generator=torch.Generator().manual_seed(seed)) + 0.5


def first_tokens(count, rows=2, tokens=400):
    return Selection(torch.arange(count).expand(rows, -1), tokens)


def estimate(name, kept, selection, fresh, weights=None):
    return ESTIMATORS[name].estimate([each.clone() for each in kept], selection, fresh, weights)


def test_refit_finds_an_affine_drift_per_channel():
    kept = residuals()
    slope, offset = torch.linspace(0.7, 1.3, 16), torch.linspace(-1, 1, 16)
    drifted = kept * slope + offset
    selection = Selection(torch.arange(0, 400, 2).expand(2, -1), 400)
    result = estimate("refit", [kept], selection, selection.gather(drifted))
    assert (result - drifted).square().mean() < 0.002 * (kept - drifted).square().mean()


def test_refit_of_unchanged_residuals_changes_nothing():
    kept = residuals()
    assert torch.allclose(estimate("refit", [kept], first_tokens(50), kept[:, :50]), kept, atol=1e-5)


def test_refit_trusts_few_tokens_less_than_many():
    kept = residuals()
    drifted = kept + 1.0
    _, few = fit_drift(kept[:, :2], drifted[:, :2])
    _, many = fit_drift(kept, drifted)
    assert few.abs().mean() < 0.5
    assert many.abs().mean() > 0.95


@pytest.mark.parametrize("value", [0.0, 1e-20, 1e4])
def test_refit_of_constant_channels_is_finite(value):
    kept = torch.full((1, 10, 4), value)
    slope, offset = fit_drift(kept[:, :3], kept[:, :3] * 2)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(offset).all()
    assert ((slope >= 0.5) & (slope <= 1.5)).all()


def test_scaled_refit_moves_a_token_as_far_as_its_input_moved():
    kept = residuals()
    fresh = kept[:, :100] + 1.0
    weights = torch.cat([torch.ones(2, 100, 1), torch.zeros(2, 150, 1), torch.full((2, 150, 1), 0.5)], dim=1)
    result = estimate("scaled_refit", [kept], first_tokens(100), fresh, weights)
    moved = (result - kept).mean(-1)
    assert torch.allclose(moved[:, 100:250], torch.zeros(1), atol=1e-6)
    assert torch.allclose(moved[:, 250:].mean(), moved[:, :100].mean() / 2, rtol=0.1)


def test_change_weights_are_relative_to_the_selected_tokens():
    change = torch.tensor([[4.0, 2.0, 1.0, 100.0]])
    weights = change_weights(change, torch.tensor([[0]])).squeeze(-1)
    assert torch.allclose(weights, torch.tensor([[1.0, 0.5, 0.25, 1.5]]))
    still = change_weights(torch.zeros(1, 4), torch.tensor([[0, 1]]))
    assert torch.isfinite(still).all()


def test_step_ratios_of_tokens_are_distances_over_the_last_interval():
    newest, older = torch.tensor([[0.8, 0.8, 0.9, 0.8]]), torch.tensor([[0.9, 0.8, 0.95, 0.801]])
    expected = torch.tensor([[1.0, 0.0, 4.0, MAX_STEP_RATIO]])
    assert torch.allclose(token_step_ratios(0.7, newest, older).squeeze(-1), expected, atol=1e-4)


def test_forecast_tokens_extrapolates_each_token_by_its_own_ratio():
    kept, older = residuals(), residuals(seed=1)
    weights = torch.zeros(2, 400, 1)
    weights[:, 200:] = 2.0
    result = estimate("forecast", [kept, older], first_tokens(1), kept[:, :1], weights)
    assert torch.allclose(result[:, :200], kept[:, :200], atol=1e-6)
    assert torch.allclose(result[:, 200:], (kept + 2 * (kept - older))[:, 200:], atol=1e-5)
