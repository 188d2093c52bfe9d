"""Attention on selected rows behind one signature: a reference that defines it, and backends that earn their place.

`python kernels` in the pack's folder prints every backend: whether it can be used here, why not, its error, its time.
"""

from .backend import Backend, Constraints
from .backends.reference import attend_reference
from .custom_op import DISPATCHER, attend
from .dispatch import AUTO, BACKEND_CHOICES, HOST, Choice
from .key_tiles import KeyTiles
from .problem import MANY_QUERIES, Problem

__all__ = [
    "AUTO",
    "BACKEND_CHOICES",
    "DISPATCHER",
    "HOST",
    "MANY_QUERIES",
    "Backend",
    "Choice",
    "Constraints",
    "KeyTiles",
    "Problem",
    "attend",
    "attend_reference",
]
