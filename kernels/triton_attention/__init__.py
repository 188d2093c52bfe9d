"""Attention kernels in Triton, and the Python side that launches them.

Importing this needs torch alone; Triton is imported at the first launch. Which kernel serves a call is not decided
here.
"""

from .availability import architecture_of, unavailable_reason, unsupported_reason
from .configs import SHIPPED, Config, config_for
from .launch import attend_int8, attend_pointer, attend_tma, why_no_descriptor

__all__ = [
    "SHIPPED",
    "Config",
    "architecture_of",
    "attend_int8",
    "attend_pointer",
    "attend_tma",
    "config_for",
    "unavailable_reason",
    "unsupported_reason",
    "why_no_descriptor",
]
