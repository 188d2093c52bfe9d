"""Makes the pack importable as `astraea`, whatever its folder is called.

The folder is never put on sys.path: its `nodes` would shadow ComfyUI's.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load_pack(name: str = "astraea") -> None:
    """Loads the pack's __init__.py as package `name`, as ComfyUI does under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if "astraea" not in sys.modules:
    load_pack()
