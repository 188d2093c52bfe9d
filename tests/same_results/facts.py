"""Versions and processor: the bits of a result depend on them besides code and inputs."""

from __future__ import annotations

import hashlib
import platform
import re
from pathlib import Path
from typing import Any

CPU_INFORMATION = Path("/proc/cpuinfo")


def facts() -> dict[str, Any]:
    """Plain values that must be equal for equal bits. ComfyUI is already in the process."""
    import torch
    from comfyui_version import __version__

    return {
        "comfyui": __version__,
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": cpu_flags(),
    }


def cpu_name() -> str:
    """The processor's name as the system reports it."""
    information = CPU_INFORMATION.read_text() if CPU_INFORMATION.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", information, re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()


def cpu_flags() -> str:
    """Twelve digits over the instructions that the processor has: virtual machines hide its model. "" if unknown."""
    if not CPU_INFORMATION.exists():
        return ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", CPU_INFORMATION.read_text(), re.MULTILINE)
    return hashlib.sha256(" ".join(sorted(found.group(1).split())).encode()).hexdigest()[:12] if found else ""
