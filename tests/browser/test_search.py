"""A search that its user stops and resumes, by the editor's own buttons."""

from __future__ import annotations

import re

import pytest
from editor import Editor
from graph.server import ComfyServer, PromptInterrupted
from templates import SEARCH

RUN_SECONDS = 300  # until the first candidate of a search, beside other tiers
SMALL = {"width": 96, "height": 96, "length": 9}
BEST = r"\d dB"  # of the best candidate so far
SAVED = "saved so far: '(.+?)'"


@pytest.fixture(scope="module")
def stopped(editor: Editor, server: ComfyServer) -> Editor:
    """The editor after a search was stopped once its first candidate had been measured."""
    editor.open_template(SEARCH)
    for name, value in SMALL.items():
        editor.set_widget("EmptyHunyuanLatentVideo", name, value)
    editor.set_widget("AstraeaSearch", "effort", editor.node("AstraeaSearch").choices["effort"][0])
    prompt_id = editor.run()["prompt_id"]
    editor.wait_for_text("AstraeaSearch", BEST, seconds=RUN_SECONDS)
    editor.cancel()
    with pytest.raises(PromptInterrupted):
        server.wait(prompt_id)
    return editor


def test_a_stopped_search_names_a_schedule_that_can_be_chosen(stopped: Editor) -> None:
    """Among those of Astraea Accelerate, after the key R, which has lists read anew."""
    (name,) = re.findall(SAVED, stopped.wait_for_text("AstraeaSearch", SAVED))
    listed = stopped.node("AstraeaAccelerate").choices["schedule"]
    stopped.press("r")
    assert name in stopped.wait_for_choices("AstraeaAccelerate", "schedule", more_than=len(listed))


def test_run_goes_on_with_a_stopped_search(stopped: Editor, server: ComfyServer) -> None:
    server.wait(stopped.run()["prompt_id"])
    stopped.wait_for_text("AstraeaSearch", "^saved '")
    assert re.search(r"[1-9]\d* of \d+ candidate runs were known from before", server.log)
