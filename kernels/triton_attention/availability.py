"""Reasons, for users, why a Triton kernel cannot be used on a device. Needs torch alone."""

from __future__ import annotations

import os
from functools import cache

import torch

from .configs import HEAD_DIMS, config_for

OLDEST_TRITON = (3, 6)


def is_interpreted() -> bool:
    """Tell whether Triton interprets kernels on the CPU. It reads the variable when a kernel is first imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def architecture_of(device: torch.device) -> str:
    """Return "sm90", "gfx942", …; "interpreter" for a CPU under TRITON_INTERPRET=1; "" for other devices."""
    if device.type == "cpu":
        return "interpreter" if is_interpreted() else ""
    if device.type != "cuda":
        return ""
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


@cache
def unavailable_reason() -> str:
    """Return why Triton cannot be used in this process; "" if it can. Never raises."""
    try:
        import triton
    except Exception as error:  # a broken installation may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "triton":
            return "Triton is not installed"
        return f"Triton cannot be imported: {type(error).__name__}: {error}"
    try:
        if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
            oldest = ".".join(map(str, OLDEST_TRITON))
            return f"Triton {triton.__version__} is older than {oldest}, the oldest these kernels are tested with"
        if not is_interpreted():
            triton.runtime.driver.active.get_current_target()
    except Exception as error:
        return f"Triton finds no usable GPU driver: {error}"
    return ""


def runs_on(device: torch.device) -> bool:
    """Tell whether Triton kernels run on a device: one with a shipped architecture, or a CPU that interprets them."""
    architecture = architecture_of(device)
    return config_for(architecture, "pointer", HEAD_DIMS[-1]) is not None and not unavailable_reason()


def unsupported_reason(kind: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Return why a kernel, see `config_for`, cannot take such tensors; "" if it can."""
    architecture = architecture_of(device)
    if not architecture:
        return f"Triton kernels do not run on the device {device.type}"
    if reason := unavailable_reason():
        return reason
    dtypes = _supported_dtypes(architecture, kind)
    if dtype not in dtypes:
        return f"the {kind} kernel takes {' or '.join(map(_name, dtypes))}, not {_name(dtype)}"
    if head_dim not in HEAD_DIMS:
        return f"the Triton kernels take heads of size {' or '.join(map(str, HEAD_DIMS))}, not {head_dim}"
    if config_for(architecture, kind, head_dim) is None:
        return f"no configuration of the {kind} kernel is shipped for {architecture} and heads of size {head_dim}"
    return ""


def _supported_dtypes(architecture: str, kind: str) -> tuple[torch.dtype, ...]:
    if architecture != "interpreter":
        return torch.float16, torch.bfloat16
    # The interpreter multiplies the bits of bf16 as if they were integers.
    return (torch.float16,) if kind.startswith("int8") else (torch.float16, torch.float32)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
