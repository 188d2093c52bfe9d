"""The page after all that the tests did with it: this file is the last of them by its name."""

from __future__ import annotations

from editor import Editor


def test_no_error_of_the_page_names_the_pack(editor: Editor) -> None:
    assert editor.troubles.of_the_pack() == []
