"""Makes the pack importable as `astraea`, whatever its folder is called.

The folder is never put on sys.path: its `nodes` would shadow ComfyUI's.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile

import pytest

from hosts import bootstrap, current_host, find_hosts

# What the tests time is not what the user's machine is to remember. Servers and scripts started by tests inherit it.
os.environ["ASTRAEA_CACHE_DIR"] = CACHE = tempfile.mkdtemp(prefix="astraea-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

if bootstrap.PACK not in sys.modules:
    bootstrap.load_pack()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `newest_host` unless this process tests the newest ComfyUI that was found."""
    marked = [item for item in items if item.get_closest_marker("newest_host")]
    host = current_host() if marked else None
    if host is None or host.version_tuple >= max((found.version_tuple for found in find_hosts()), default=()):
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="runs on the newest ComfyUI that was found"))
