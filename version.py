"""The pack's version, as pyproject.toml states it when the pack is loaded."""

from __future__ import annotations

import re
from pathlib import Path

_PROJECT_FILE = Path(__file__).resolve().parent / "pyproject.toml"


def _read() -> str:
    """Read it by a regular expression, as Python 3.10 has no parser."""
    try:
        found = re.search(r'^version = "(.+)"$', _PROJECT_FILE.read_text("utf-8"), re.MULTILINE)
    except OSError:
        return "unknown"
    return found.group(1) if found else "unknown"


VERSION = _read()
