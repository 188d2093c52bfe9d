"""Estimates of what is not computed: predictions of skipped steps and their errors; residuals of stale tokens."""

from .prediction import ExtrapolationGain, History, extrapolate_prediction, hold_prediction, step_ratio_from
from .prediction_error import SkippedStep, TimeAxes, prediction_error
from .tokens import ESTIMATORS, TokenEstimator, estimator_named
