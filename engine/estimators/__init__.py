"""Estimates of what is not computed: predictions of skipped steps and their errors; residuals of stale tokens."""

from .prediction import ComputedPrediction, History, SkippedStep, forecast_prediction, hold_prediction
from .tokens import ESTIMATORS, TokenEstimator, estimator_named
