"""Limits that several packages check, each stated once."""

MIN_BUDGET = 0.1  # mean share of a run's work
MAX_TARGET_SPEEDUP = 1.0 / MIN_BUDGET
ZERO_SIGMA = 1e-4  # a run that ends at or below it has no noise left
MAX_STEPS = 1000  # sampling steps of a run, points of a schedule
MAX_CFG = 100.0  # guidance scale, as in ComfyUI's own samplers
MAX_SEED = 2**64 - 1
MAX_NAME_LENGTH = 80  # of a schedule
