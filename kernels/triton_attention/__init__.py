"""Attention kernels in Triton, and the functions that launch them.

Importing this needs torch alone; Triton is imported at the first launch. Nothing here chooses among the kernels.
"""

from .availability import architecture_of, unavailable_reason, unsupported_reason
from .configs import SHIPPED, Config, config_for
from .launch import attend_int8, attend_pointer, attend_tma, descriptor_error
