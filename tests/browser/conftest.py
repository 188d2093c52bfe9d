"""The browser tier: a ComfyUI with the pack, and its editor in one page of a Chromium, for all tests of a session."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from editor import Editor
from graph.server import PACK_FOLDER, ComfyServer
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright

from hosts import BROWSER_VARIABLE, HOW_TO, OLDEST_EDITOR, ROOT, current_host, find_browser

SCREEN = {"width": 1600, "height": 1000}
ARTIFACTS = Path(os.environ.get("ASTRAEA_ARTIFACTS") or ROOT / "output" / "browser")

# The browser draws while the server computes: more threads than cores would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def server() -> Iterator[ComfyServer]:
    host = current_host()
    if host is None:
        pytest.skip(f"No ComfyUI was found. {HOW_TO}")
    if host.version_tuple < OLDEST_EDITOR:
        pytest.skip(f"The editor of ComfyUI {host.version} cannot be read by these tests")
    with ComfyServer(host) as running:
        assert "AstraeaAccelerate" in running.object_info(), f"the pack was not loaded:\n{running.log[-3000:]}"
        yield running


@pytest.fixture(scope="session")
def editor(server: ComfyServer) -> Iterator[Editor]:
    program = find_browser()
    if program is None:
        pytest.skip(f"No Chromium was found on PATH; {BROWSER_VARIABLE} names one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield Editor(browser.new_page(viewport=SCREEN), server.url, PACK_FOLDER)
        browser.close()


@pytest.fixture(scope="session")
def definitions(server: ComfyServer) -> dict[str, Any]:
    """The definition of every node, by id."""
    return server.object_info()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Save a picture of the page for every test that fails."""
    report = (yield).get_result()
    editor = getattr(item, "funcargs", {}).get("editor")
    if report.failed and editor is not None:
        host = current_host()
        name = re.sub(r"[^\w.-]+", "_", f"{host.version if host else ''}_{item.name}")
        with suppress(PlaywrightError):  # a page that crashed has no picture
            editor.screenshot(ARTIFACTS / f"{name}.png")
