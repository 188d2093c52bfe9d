"""Modes: the named combinations of token selection, token estimator and forecast of skipped steps."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import BudgetError, ScheduleError
from ...schedules import DEFAULT_MODE, Schedule
from ..estimators import ESTIMATORS, TokenEstimator, estimator_named


@dataclass(frozen=True)
class Mode:
    """One way to select tokens and to estimate what is not computed.

    token_estimator: estimates the residuals of tokens that a token step does not compute.
    per_block: every block selects its own tokens and keeps its output instead of its residual, as the paper does.
    random: tokens are selected at random, for comparison.
    forecasts: a skipped step's prediction is extrapolated from the last two; else the newest is held.
    corrects: the error of skipped predictions is corrected at the next computed step.
    """

    name: str
    token_estimator: TokenEstimator
    per_block: bool = False
    random: bool = False
    forecasts: bool = True
    corrects: bool = True

    @property
    def slots(self) -> int:
        """Tensors `[rows, N, dim]` kept per block."""
        return 2 if self.per_block else self.token_estimator.slots


def _mode_of(estimator: TokenEstimator) -> Mode:
    """Return the mode that is named after a token estimator."""
    return Mode(estimator.name, estimator, forecasts=estimator.forecasts, corrects=estimator.corrects)


DEFAULT = Mode(DEFAULT_MODE, estimator_named("scaled_refit"))
PAPER = Mode("paper", estimator_named("hold"), per_block=True, forecasts=False, corrects=False)
RANDOM = Mode("random", DEFAULT.token_estimator, random=True)
MODES = {mode.name: mode for mode in (DEFAULT, PAPER, RANDOM)}
MODES |= {name: _mode_of(each) for name, each in ESTIMATORS.items() if each is not DEFAULT.token_estimator}
HOLD = MODES["hold"]
FORECAST = MODES["forecast"]


def mode_named(name: str) -> Mode:
    """Return the mode of that name. Raises BudgetError for an unknown one."""
    if name not in MODES:
        raise BudgetError(f"Mode {name!r} is unknown; choose one of {', '.join(MODES)}.")
    return MODES[name]


def check_mode(schedule: Schedule) -> Schedule:
    """Return the schedule if its mode is known. Raises ScheduleError otherwise."""
    if schedule.mode not in MODES:
        known = ", ".join(MODES)
        raise ScheduleError(f"Schedule '{schedule.name}': mode '{schedule.mode}' is not one of {known}.")
    return schedule
