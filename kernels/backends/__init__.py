"""Attention backends. All modules of this folder are imported, so that a new backend is one new module.

A module states BACKENDS, a tuple of `Backend`, and RANK. `reference` defines the result that all others must give.
"""

from importlib import import_module
from pkgutil import iter_modules

from ..backend import Backend


def find_backends() -> tuple[Backend, ...]:
    """Import all modules of this folder and return their backends by rank.

    The order is that of the node's list, and of preference where backends are not timed: with key tiles, and while a
    CUDA graph is captured. Modules of the same rank follow by name.
    """
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    modules.sort(key=lambda module: (module.RANK, module.__name__))
    return tuple(backend for module in modules for backend in module.BACKENDS)


BACKENDS = find_backends()
