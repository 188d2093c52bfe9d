"""The template browser: the first that a new user sees of the pack."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from editor import Editor
from graph.workflow import WORKFLOWS
from playwright.sync_api import expect

STAND_IN = re.compile("default-template")  # shown where a template has no picture
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


@pytest.fixture(autouse=True)
def _close(editor: Editor) -> Iterator[None]:
    """Close the template browser, whatever a test has found in it."""
    yield
    editor.close_dialog()


def test_the_template_browser_lists_all_workflows(editor: Editor) -> None:
    assert sorted(editor.template_cards(NAMES)) == NAMES


def test_every_template_shows_its_own_picture(editor: Editor) -> None:
    for name, card in editor.template_cards(NAMES).items():
        card.scroll_into_view_if_needed()  # pictures out of sight are not loaded
        picture = card.get_by_role("img", name=name)
        expect(picture, name).not_to_have_js_property("naturalWidth", 0)
        expect(picture, f"{name} has the picture of any template").not_to_have_attribute("src", STAND_IN)
