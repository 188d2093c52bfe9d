"""The quick start, as a new user meets it: opened by a click, run by a click, read on the nodes."""

from __future__ import annotations

import re

import pytest
from editor import Editor
from graph.server import ComfyServer
from templates import QUICKSTART

UNKNOWN = "from another machine"


@pytest.fixture(scope="module")
def finished(editor: Editor, server: ComfyServer) -> Editor:
    """The editor after the quick start has been run."""
    editor.open_template(QUICKSTART)
    server.wait(editor.run()["prompt_id"])
    return editor


@pytest.mark.parametrize("kind", ["AstraeaReport", "AstraeaCompare"])
def test_a_result_is_shown_as_a_picture(kind: str, finished: Editor) -> None:
    finished.wait_for_pictures(kind)
    assert min(finished.node(kind).pictures) > 200


def test_accelerate_shows_the_speed_up(finished: Editor) -> None:
    text = finished.wait_for_text("AstraeaAccelerate", ".")
    assert re.search(r"\d\.\d+ ?[x×]|unequally long", text.splitlines()[0])  # where the machine is busy


def test_with_the_node_bypassed_all_runs_and_that_is_said(editor: Editor, server: ComfyServer) -> None:
    editor.open_template(QUICKSTART)
    editor.bypass("AstraeaAccelerate")
    outputs = server.wait(editor.run()["prompt_id"])["outputs"]
    texts = [line for output in outputs.values() for line in output.get("text", [])]
    assert [line for line in texts if "bypassed" in line], texts
    assert any(line.startswith("identical") for line in texts), texts


def test_an_unknown_schedule_is_one_message(editor: Editor) -> None:
    editor.open_template(QUICKSTART)
    editor.set_widget("AstraeaAccelerate", "schedule", UNKNOWN)
    editor.run()
    lines = editor.error_lines()
    assert len([line for line in lines if UNKNOWN in line]) == 1, lines
