"""Choices of backends kept on disk, so that a machine times them once: a small JSON file in the user's cache folder.

It also records first attempts, see `crash_guard`. Nothing here raises: a lost file costs a second of timing.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..files import bounded_int, read_regular, write_whole
from .backends import BACKENDS
from .backends.packages import package_version
from .problem import Problem

FOLDER_VARIABLE = "ASTRAEA_CACHE_DIR"
FORMAT = 1
CHOICES, ATTEMPTS, RACES = SECTIONS = ("choices", "trials", "races")  # keys in the file
MAX_BYTES = 1 << 20
MAX_ENTRIES = 500


def folder() -> Path:
    """Return the folder of the cache: the user's cache folder of this system, or ASTRAEA_CACHE_DIR."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base or Path.home() / "AppData" / "Local") / "astraea"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "astraea"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "astraea"


def path() -> Path:
    return folder() / "attention.json"


@cache
def versions() -> str:
    """Return the versions that a timing depends on: torch with its platform, and the backends' packages."""
    found = [f"torch {torch.__version__}"]
    built = getattr(torch.version, "hip", None) or torch.version.cuda
    if built:
        found.append(f"for {built}")
    if torch.cuda.is_available() and torch.backends.cudnn.is_available():
        found.append(f"cudnn {torch.backends.cudnn.version()}")
    packages = {name for backend in BACKENDS for name in backend.packages}
    ordered = sorted(packages, key=lambda name: (not name.startswith("triton"), name))  # as in keys saved so far
    found += [f"{name} {version}" for name in ordered if (version := package_version(name))]
    return ", ".join(found)


def device_name(device: torch.device) -> str:
    """Return the device's product name; for a CPU also the number of threads, on which the fastest backend depends."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU {_cpu_name()}, {torch.get_num_threads()} threads"
    return device.type


@cache
def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def key(problem: Problem, candidates: str) -> str:
    """Return the key of a choice; candidates: names the set of backends that it was made from."""
    kind = problem.kind
    dtype = str(kind.dtype).removeprefix("torch.")
    parts = [
        device_name(kind.device),
        versions(),
        dtype,
        f"{kind.heads} heads of {kind.head_dim}",
        f"{kind.keys} keys",
        "many queries" if kind.has_many_queries else "few queries",
        "with log-sum-exp" if kind.need_lse else "without log-sum-exp",
        *(["with key tiles"] if kind.key_tiles else []),
        *([] if kind.usual_tiles else ["of other sizes"]),
        *(["and a rest"] if kind.rest else []),
        candidates,
    ]
    return " | ".join(parts)


def attempt_key(problem: Problem, backend: str) -> str:
    """Return the key of a backend's first attempt on a device."""
    dtype = str(problem.dtype).removeprefix("torch.")
    lists = ["with key tiles"] if problem.key_tiles else []
    return " | ".join([device_name(problem.device), versions(), dtype, f"heads of {problem.head_dim}", backend, *lists])


def read(section: str = CHOICES) -> dict[str, dict[str, Any]]:
    """Return all entries of a section; none from a file that is missing, damaged or of another format."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        content = json.loads(_read_text(), parse_float=_parse_float, parse_int=bounded_int, parse_constant=_parse_float)
        if content.get("format") == FORMAT and isinstance(content.get(section), dict):
            return {name: entry for name, entry in content[section].items() if isinstance(entry, dict)}
    return {}


def _read_text() -> str:
    """Return the file's text. Raises OSError or ValueError."""
    content = read_regular(path(), MAX_BYTES)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return content.decode("utf-8")


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def write(name: str, entry: dict[str, Any], section: str = CHOICES) -> None:
    """Add an entry. The file is replaced as a whole, so that no reader sees a part of it."""
    content = {each: read(each) for each in SECTIONS}
    content[section].pop(name, None)
    content[section][name] = entry
    content = {each: dict(list(entries.items())[-MAX_ENTRIES:]) for each, entries in content.items()}
    text = json.dumps({"format": FORMAT, **content}, indent=1, allow_nan=False) + "\n"
    with contextlib.suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        write_whole(path(), text, mode=0o600)
