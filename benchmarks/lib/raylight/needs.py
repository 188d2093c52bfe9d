"""Requirements of the measurement besides ComfyUI: packages, raylight, GPUs. A missing one ends it with a sentence."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from .setting import in_words

# Packages by the name under which they are imported; xFuser's version is the one that raylight is tested with here.
PACKAGES = {"ray": "ray", "xfuser": "xfuser==0.4.5", "yunchang": "yunchang"}
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def check_packages() -> None:
    missing = [pip for name, pip in PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"{' and '.join(missing)} not found in ComfyUI's Python: install with "
            f"'{sys.executable} -m pip install {' '.join(missing)}'."
        )


def raylight_folder(named: Path | None, comfyui: Path) -> Path:
    """Return the folder of raylight: the one named, or the one among ComfyUI's custom nodes."""
    if named is None:
        found = sorted(comfyui.glob("custom_nodes/*/src/raylight/nodes.py"))
        if not found:
            sys.exit(
                f"raylight was not found in '{comfyui / 'custom_nodes'}': name its folder with --raylight (from "
                "https://github.com/komikndr/raylight)."
            )
        return found[0].parents[2]
    folder = named.expanduser().resolve()
    if not (folder / "src" / "raylight" / "nodes.py").is_file():
        sys.exit(f"'{folder}' is no folder of raylight: it has no src/raylight/nodes.py.")
    return folder


def gpus_here() -> int:
    """Return how many GPUs torch can use; exits if there is none."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("No GPU that torch can use was found; --small tries this benchmark on the CPU.")
    return torch.cuda.device_count()


def check_gpus(wanted: int) -> None:
    found = gpus_here()
    if wanted > found:
        sys.exit(f"--gpus {wanted}: torch finds {in_words(found)} here.")


def check_attention(name: str) -> None:
    known = list(importlib.import_module("yunchang.kernels").AttnType.__members__)
    if name not in known:
        sys.exit(f"--attention {name}: xFuser has {', '.join(known)}.")


def check_memory(gpus: int, weights: int) -> None:
    """Say so where the workers' copies of the weights, all loaded at once, are more than the host's memory."""
    import psutil

    memory = psutil.virtual_memory().available
    if gpus * weights > memory:
        print(
            f"{gpus} workers load {weights / 1e9:.1f} GB each into host memory, where {memory / 1e9:.0f} GB are free: "
            "the system may end them. Fewer --gpus need less.",
            flush=True,
        )


def machine(raylight: Path, *, on_gpus: bool) -> dict[str, Any]:
    """Return the versions that matter, and the GPUs with their links."""
    import torch

    versions = {"raylight": _raylight_version(raylight), **{name: _version(name) for name in PACKAGES}}
    if not on_gpus:
        return {"versions": versions, "gpus": [], "links": ""}
    versions["CUDA"] = str(torch.version.cuda or torch.version.hip)
    versions["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    versions["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"versions": versions, "gpus": names, "links": _output("nvidia-smi", "topo", "-m")}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _raylight_version(folder: Path) -> str:
    project = folder / "pyproject.toml"
    text = project.read_text("utf-8") if project.is_file() else ""
    found = re.search(r'^version\s*=\s*"([^"]+)"', text, re.MULTILINE)
    commit = _output("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD") if (folder / ".git").exists() else ""
    return " ".join(filter(None, [found[1] if found else "", f"({commit})" if commit else ""]))


def _output(*command: str) -> str:
    """Return what a command prints, without colours; "" if it fails or there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ESCAPES.sub("", done.stdout).strip() if done.returncode == 0 else ""
