"""How what is not computed is estimated: interchangeable pure functions, one file each; and their trial."""

from .correct import Estimated, missed
from .forecast import Trial, forecast_denoised, forecast_tokens
from .hold import hold_denoised, hold_tokens
from .refit import refit_tokens, scaled_refit_tokens
from .time_axes import TIMES, Curves

__all__ = [
    "TIMES",
    "Curves",
    "Estimated",
    "Trial",
    "forecast_denoised",
    "forecast_tokens",
    "hold_denoised",
    "hold_tokens",
    "missed",
    "refit_tokens",
    "scaled_refit_tokens",
]
