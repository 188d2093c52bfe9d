"""How what is not computed is estimated: interchangeable pure functions, one file each."""

from .forecast import forecast_tokens, forecast_total
from .hold import hold_tokens, hold_total
from .refit import refit_tokens, scaled_refit_tokens

__all__ = [
    "forecast_tokens",
    "forecast_total",
    "hold_tokens",
    "hold_total",
    "refit_tokens",
    "scaled_refit_tokens",
]
