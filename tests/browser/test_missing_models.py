"""Workflows whose models are not there yet: the editor offers to download them."""

from __future__ import annotations

from typing import Any

import pytest
from editor import Editor
from graph.server import ComfyServer
from graph.workflow import load_if_known
from playwright.sync_api import expect
from templates import model_files, of_families


@pytest.mark.parametrize("name", of_families())
def test_every_model_is_offered_for_download(
    name: str, editor: Editor, server: ComfyServer, definitions: dict[str, Any]
) -> None:
    load_if_known(name, definitions, server.host.version_tuple)
    editor.open_template(name)
    panel = editor.open_errors()
    for file in sorted(model_files(name)):
        expect(panel.get_by_role("button", name=f"Download {file}")).to_be_visible()
