"""Starts the pack outside ComfyUI's own start-up: for the commands, tests and benchmarks. Standard library only.

A script adds the pack's folder to `sys.path` for this one import and takes it off again: the folder's `nodes` would
shadow ComfyUI's.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACK = "astraea"
ROOT = Path(__file__).resolve().parent
HOW_TO = "Name the folder of ComfyUI with --comfyui or in COMFYUI_DIR, or put this pack into its custom_nodes."


class CannotStart(Exception):
    """ComfyUI cannot be started; the message says why and what to do."""


def load_pack(name: str = PACK) -> None:
    """Import the pack as package `name`, whatever its folder is called; its folders are taken off `sys.path`."""
    sys.path[:] = [entry for entry in sys.path if not _is_inside_pack(entry)]
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _is_inside_pack(entry: str) -> bool:
    """Tell whether an entry of `sys.path` is the pack's folder or a package in it, whose module names hide others."""
    folder = Path(entry or ".").resolve()
    return folder == ROOT or (folder.parent == ROOT and folder.name in ("search", "tiny"))


def is_comfyui(folder: Path) -> bool:
    """Tell whether the folder holds a ComfyUI that states its version."""
    return (folder / "main.py").is_file() and (folder / "comfyui_version.py").is_file()


def enclosing_comfyui() -> Path | None:
    """Return the ComfyUI in whose custom_nodes the pack lies, as a folder or as a link."""
    for parent in (*Path(__file__).absolute().parents, *ROOT.parents):
        if parent.name == "custom_nodes" and is_comfyui(parent.parent):
            return parent.parent
    return None


def find_comfyui(named: str | None) -> Path:
    """Return the ComfyUI that was named, in COMFYUI_DIR, or around the pack. Raises CannotStart."""
    named = named or os.environ.get("COMFYUI_DIR", "").split(os.pathsep)[0]
    if named:
        tree = Path(named).expanduser().resolve()
        if not is_comfyui(tree):
            raise CannotStart(f"'{named}' is no ComfyUI folder: it has no main.py with comfyui_version.py. {HOW_TO}")
        return tree
    found = enclosing_comfyui()
    if found is None:
        raise CannotStart(f"No ComfyUI was found. {HOW_TO}")
    return found


def start_comfyui(tree: Path, flags: Sequence[str]) -> Any:
    """Make `import comfy` work as inside main.py, with these command-line flags; returns ComfyUI's parsed flags.

    Raises CannotStart for flags that ComfyUI does not accept.
    """
    sys.argv = ["main.py", *flags]
    sys.path.insert(0, str(tree))
    importlib.import_module("comfy.options").enable_args_parsing()
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return importlib.import_module("comfy.cli_args").args
    except SystemExit:
        reason = (messages.getvalue().strip().splitlines() or ["no reason given"])[-1]
        raise CannotStart(f"ComfyUI does not accept these flags: {reason}") from None
