"""Token estimators, one module each; all modules of this folder are imported, so that their classes register."""

from importlib import import_module
from pkgutil import iter_modules

from .base import ESTIMATORS, TokenEstimator, estimator_named

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")
