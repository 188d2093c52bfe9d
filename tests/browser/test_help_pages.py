"""The help page of every node, beside the graph."""

from __future__ import annotations

import pytest
from editor import Editor
from playwright.sync_api import expect

from hosts import ROOT

PAGES = sorted((ROOT / "web" / "docs").glob("*.md"))


@pytest.fixture(scope="module", autouse=True)
def _blank(editor: Editor) -> None:
    editor.open_blank()


@pytest.mark.parametrize("kind", [page.stem for page in PAGES])
def test_the_help_page_of_a_node_opens(kind: str, editor: Editor) -> None:
    text = (ROOT / "web" / "docs" / f"{kind}.md").read_text("utf-8")
    heading = next(line for line in text.splitlines() if line.startswith("# "))
    expect(editor.open_help(kind).get_by_role("heading").first).to_have_text(heading.removeprefix("# ").strip())
