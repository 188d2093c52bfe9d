"""What is kept on disk, so that a machine times its backends once: a small JSON file in the user's cache folder.

Beside choices it holds trials: which backends came back from their first self-test. Losing the file costs a second of
timing; nothing here raises because of it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .backends.packages import package_version
from .problem import Problem

FOLDER_VARIABLE = "ASTRAEA_CACHE_DIR"
FORMAT = 1
CHOICES, TRIALS = SECTIONS = ("choices", "trials")
MOST_BYTES = 1 << 20
MAX_ENTRIES = 500
MAX_DIGITS = 30  # of an integer; longer ones are beyond what floats can hold
PACKAGES = ("triton", "triton-windows", "flash_attn", "flash_attn_3", "sageattention")


def folder() -> Path:
    """Where the system's users keep caches; ASTRAEA_CACHE_DIR names another place."""
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
    """What a timing depends on besides the device: torch with what it was built for, and the packages."""
    found = [f"torch {torch.__version__}"]
    built = getattr(torch.version, "hip", None) or torch.version.cuda
    if built:
        found.append(f"for {built}")
    if torch.cuda.is_available() and torch.backends.cudnn.is_available():
        found.append(f"cudnn {torch.backends.cudnn.version()}")
    found += [f"{name} {version}" for name in PACKAGES if (version := package_version(name))]
    return ", ".join(found)


def device_name(device: torch.device) -> str:
    """The device as its maker calls it; CPUs with the threads that torch uses, for they decide what is fastest."""
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
    """Under what a choice is kept; candidates: what else it was made among."""
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
        candidates,
    ]
    return " | ".join(parts)


def trial_key(problem: Problem, backend: str) -> str:
    """Under what the first self-test of a backend on a device is kept."""
    dtype = str(problem.dtype).removeprefix("torch.")
    return " | ".join([device_name(problem.device), versions(), dtype, f"heads of {problem.head_dim}", backend])


def read(section: str = CHOICES) -> dict[str, dict[str, Any]]:
    """All entries of a section. A missing, damaged or foreign file has none."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        content = json.loads(_text(), parse_float=_finite, parse_int=_bounded, parse_constant=_finite)
        if content.get("format") == FORMAT and isinstance(content.get(section), dict):
            return {name: entry for name, entry in content[section].items() if isinstance(entry, dict)}
    return {}


def _text() -> str:
    """The file's text. Raises OSError or ValueError, also where it is too large or no regular file; never waits.

    Not by `..files`: this folder is run by itself, too.
    """
    # Opening a FIFO waits for its other end unless it is told not to.
    descriptor = os.open(path(), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > MOST_BYTES:
        os.close(descriptor)
        raise ValueError("no record, or too large")
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MOST_BYTES).decode("utf-8")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _bounded(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def write(name: str, entry: dict[str, Any], section: str = CHOICES) -> None:
    """Adds an entry; the file is replaced as a whole, so that no reader sees half of it."""
    content = {each: read(each) for each in SECTIONS}
    content[section].pop(name, None)
    content[section][name] = entry
    content = {each: dict(list(entries.items())[-MAX_ENTRIES:]) for each, entries in content.items()}
    text = json.dumps({"format": FORMAT, **content}, indent=1, allow_nan=False) + "\n"
    beside = ""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=folder(), suffix=".part")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, path())
    except OSError:
        if beside:
            with contextlib.suppress(OSError):
                os.unlink(beside)
