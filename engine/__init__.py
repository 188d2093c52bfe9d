"""One accelerated run in torch alone: plan, selection, residual store, estimators, accounting."""
