"""Finds ComfyUI installations on this machine, the Python each one runs with, and a browser. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import bootstrap  # noqa: E402

sys.path.remove(str(ROOT))

HOST_VARIABLE = "ASTRAEA_TEST_HOST"  # dev.py names the tree under test in it

BROWSER_VARIABLE = "ASTRAEA_CHROMIUM"  # names another browser than those on PATH
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OLDEST_EDITOR = (0, 19)  # ComfyUI whose editor the browser tier can read

HOW_TO = f"""\
Install ComfyUI (0.3.64 or newer) in any of these ways and run the command again:
  * clone this pack into <ComfyUI>/custom_nodes/ and run it there;
  * set COMFYUI_DIR to the ComfyUI folder (several: separated by '{os.pathsep}');
  * or install ComfyUI in ~/comfy/ComfyUI (further versions in ~/comfy-<anything>/ComfyUI).
Its Python is looked for in venv or .venv inside or beside that folder; COMFYUI_PYTHON names another one."""


@dataclass(frozen=True)
class Host:
    """One ComfyUI: its folder, its version as written and the Python it runs with."""

    tree: Path
    version: str
    python: Path

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """(0, 3, 64) of "0.3.64"."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])


def find_hosts() -> list[Host]:
    """All ComfyUI installations to test against, in order of preference. Raises ValueError for a wrong COMFYUI_DIR."""
    named = [Path(part).expanduser() for part in os.environ.get("COMFYUI_DIR", "").split(os.pathsep) if part]
    for tree in named:
        if not bootstrap.is_comfyui(tree):
            raise ValueError(
                f"COMFYUI_DIR names {tree}, which is no ComfyUI folder (no main.py with comfyui_version.py)"
            )
    trees = named or [tree for tree in (bootstrap.enclosing_comfyui(),) if tree] or _trees_at_home()
    unique = dict.fromkeys(tree.resolve() for tree in trees)
    return [host_at(tree) for tree in unique]


def current_host() -> Host | None:
    """The host this test process is for: the one dev.py named, else the first found."""
    if named := os.environ.get(HOST_VARIABLE):
        return host_at(Path(named))
    return next(iter(find_hosts()), None)


def host_at(tree: Path) -> Host:
    """The host whose folder is `tree`."""
    return Host(tree, _version(tree), _python(tree))


def find_browser() -> str | None:
    """The program of a Chromium, or None."""
    named = os.environ.get(BROWSER_VARIABLE)
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


def unusable(host: Host) -> str | None:
    """Why `host` cannot run here, or None: its Python must at least import torch."""
    try:
        done = subprocess.run([str(host.python), "-c", "import torch, aiohttp"], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it exits at once"])[-1]


def _trees_at_home() -> list[Path]:
    home = Path.home()
    return [
        tree
        for tree in (home / "comfy" / "ComfyUI", *sorted(home.glob("comfy-*/ComfyUI")))
        if bootstrap.is_comfyui(tree)
    ]


def _version(tree: Path) -> str:
    text = (tree / "comfyui_version.py").read_text("utf-8")
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
    return found.group(1) if found else "0"


def _python(tree: Path) -> Path:
    if named := os.environ.get("COMFYUI_PYTHON"):
        return Path(named).expanduser()
    environments = (tree.parent / "venv", tree.parent / ".venv", tree / "venv", tree / ".venv")
    candidates = [folder / part for folder in environments for part in ("bin/python", "Scripts/python.exe")]
    candidates.append(tree.parent / "python_embeded" / "python.exe")
    return next((path for path in candidates if path.exists()), Path(sys.executable))
