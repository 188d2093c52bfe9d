"""Attention on selected rows behind one signature: a reference that defines it, and faster backends.

`python kernels` in the pack's folder prints every backend: its error and its time, or why it cannot be used here.
"""

from .autotune import TIMING
from .backend import Backend, Constraints
from .backends.reference import attend_reference
from .custom_op import DISPATCHER, attend
from .dispatch import AUTO, BACKEND_CHOICES, FAST, HOST, OUT_OF_MEMORY, Choice
from .key_tiles import KeyTiles
from .problem import MANY_QUERIES, Problem
