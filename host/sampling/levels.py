"""Noise levels of the host's models on one scale, whatever their parametrisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.model_sampling import CONST

Level = Callable[[float], float]
"""level(sigma): the share of noise in the latents, from 0 to 1, on which schedules and time axes are defined."""


def level_of(model_sampling: Any) -> Level:
    """Return the noise level of a model's sigmas.

    A flow's sigma is that share itself. Other models add noise to latents that stay as they are, up to a sigma of 700:
    after scaling both by 1 / (1 + σ), σ / (1 + σ) is the share.
    """
    return _same if isinstance(model_sampling, CONST) else _share


def latent_scale_of(model_sampling: Any) -> Level:
    """Return by sigma what the sampler's latents are multiplied by to hold the share of noise of `level_of`.

    The rest of them is then signal, as in a flow model's: weights of predictions and responses mean the same for all.
    """
    return _one if isinstance(model_sampling, CONST) else _signal


def _one(sigma: float) -> float:
    return 1.0


def _signal(sigma: float) -> float:
    return 1.0 / (1.0 + max(0.0, sigma))


def _same(sigma: float) -> float:
    return sigma


def _share(sigma: float) -> float:
    return sigma / (1.0 + sigma) if sigma >= 0.0 else sigma
