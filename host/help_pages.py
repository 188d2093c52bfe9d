"""Help pages of a pack whose folder has dots in its name: the editor asks for them under the name's first part."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[1]


def serve_help_pages(pack: Path = PACK) -> None:
    """Serve the pack's web folder under the part of its name before the first dot or "@", too, unless that is taken."""
    host: Any = importlib.import_module("nodes")  # ComfyUI's own
    served: dict[str, str] = host.EXTENSION_WEB_DIRS
    asked_for = re.split("[.@]", pack.name)[0]
    if asked_for and asked_for != pack.name:
        served.setdefault(asked_for, str(pack / "web"))
