"""The real-server tier: a ComfyUI with the pack for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from server import ComfyServer

from hosts import HOW_TO, current_host


@pytest.fixture(scope="session")
def server() -> Iterator[ComfyServer]:
    host = current_host()
    if host is None:
        pytest.skip(f"No ComfyUI was found. {HOW_TO}")
    with ComfyServer(host) as running:
        yield running


@pytest.fixture(scope="module")
def definitions(server: ComfyServer) -> dict[str, Any]:
    """The definition of every node, by id."""
    return server.object_info()
