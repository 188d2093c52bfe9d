"""Budgets over noise levels: the schedule object, its file format, its placement on a run's steps."""

from .density import BUDGET_TOLERANCE, mean_budget
from .expected import ExpectedResult, expected_from, expected_of
from .forecast import DEFAULT_FORECAST, Forecast, usual_forecast
from .format import load, parse, save, serialise
from .placement import LONGEST, SamplerSteps, place_enough_steps, place_evenly, place_held, place_steps
from .prediction_prior import PredictionPrior
from .resample import Place, budgets_for
from .schedule import ANY_FAMILY, AUTO, DEFAULT_MODE, MAX_SIGMA, Schedule, check_name, check_new_name
from .selection import (
    OWN_MEAN_TOLERANCE,
    SAME_BUDGET,
    config_distance,
    equivalent_steps,
    forecast_for,
    guidance_of,
    list_schedules,
    load_schedules,
    pick,
    pick_alike,
    target_budget,
)
from .shapes import flow_sigmas, former_schedule, periodic, token_steps, uniform, warped_skip, whole_steps
from .step_skipping import without_partial_steps
