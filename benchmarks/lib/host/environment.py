"""The conditions of a measurement: versions, machine, commit, command."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..results import ROOT
from .process import Host

COMMAND = ["python", *sys.argv]  # kept here: the host gets an argv of its own
CODE_FOLDERS = ("engine", "host", "kernels", "models", "schedules")


def environment(host: Host, args: argparse.Namespace, device: str) -> dict[str, Any]:
    """All conditions needed to repeat a measurement. Paths below the home folder begin with `~`."""
    import torch

    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": _tilde(shlex.join(_relative(part) for part in COMMAND)),
        "commit": commit(),
        "pack_code": code_digest(),
        "pack": _pack_version(),
        "comfyui": host.version,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "gpu": gpu,
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "seed": args.seed,
    }


def _relative(part: str) -> str:
    path = Path(part).resolve()
    is_ours = path.suffix == ".py" and path.is_file() and path.is_relative_to(ROOT)
    return path.relative_to(ROOT).as_posix() if is_ours else part


def _tilde(text: str) -> str:
    return text.replace(str(Path.home()), "~")


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def commit() -> str:
    """The commit, with a `+` where tracked code differs from it; "unknown" outside a checkout."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return (_git("rev-parse", "HEAD") or "unknown") + ("+" if changed else "")


def code_digest() -> str:
    """Twelve digits over the code that is measured: they change with it."""
    files = sorted(path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return digest(part for path in files for part in (path.relative_to(ROOT).as_posix().encode(), path.read_bytes()))


def digest(parts: Iterable[bytes]) -> str:
    """The first twelve hexadecimal digits of the parts' SHA-256."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:12]


def _pack_version() -> str:
    project = ROOT / "pyproject.toml"
    found = (
        re.search(r'^version\s*=\s*"([^"]+)"', project.read_text("utf-8"), re.MULTILINE) if project.exists() else None
    )
    return found.group(1) if found else "unknown"


def cpu_name() -> str:
    """The processor's name as the system reports it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()
