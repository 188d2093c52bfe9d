"""The quick start: the shipped workflow, through a real server, on the demo model."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image
from server import ComfyServer
from workflow import ids_of, load, to_prompt

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Finished:
    """The prompt that was queued, and the outputs of its output nodes."""

    prompt: dict[str, Any]
    outputs: dict[str, Any]

    def shown_by(self, kind: str) -> list[dict[str, Any]]:
        return [self.outputs[number] for number in ids_of(self.prompt, kind)]


@pytest.fixture(scope="module")
def finished(server: ComfyServer) -> Finished:
    prompt = to_prompt(load("01 Quick start (no download).json"), server.object_info())
    return Finished(prompt, server.queue(prompt, seconds=600)["outputs"])


def picture(server: ComfyServer, shown: dict[str, Any], index: int = 0) -> Image.Image:
    file = shown["images"][index]
    return Image.open(io.BytesIO(server.view(file["filename"], file["subfolder"], file["type"])))


def test_both_clips_are_played_side_by_side(finished: Finished, server: ComfyServer) -> None:
    (shown,) = finished.shown_by("AstraeaCompare")
    clip = picture(server, shown)
    assert (clip.format, clip.n_frames) == ("WEBP", 25)
    assert clip.width > 2 * 384
    assert shown["animated"] == [True]


def test_the_clips_are_not_plain(finished: Finished, server: ComfyServer) -> None:
    (shown,) = finished.shown_by("AstraeaCompare")
    left = picture(server, shown).convert("RGB").crop((20, 100, 380, 300))
    assert max(high - low for low, high in left.getextrema()) > 60, "the frame is a plain surface"


@pytest.mark.usefixtures("finished")
def test_the_log_names_the_gain(server: ComfyServer) -> None:
    lines = [line for line in server.log.splitlines() if line.startswith("Astraea: 20 steps")]
    assert re.search(r"50\.0% of tokens computed .*\d\.\d\dx the speed", lines[-1])


def test_the_report_comes_back_as_text_and_picture(finished: Finished, server: ComfyServer) -> None:
    (report,) = finished.shown_by("AstraeaReport")
    (text,) = report["text"]
    gain = r"\d\.\d× · [\d.]+ s instead of about [\d.]+ s|[\d.]+ s, steps took too unequally long [a-z: ]+"
    assert re.match(rf"Astraea: ({gain}) · 10 of 20 steps computed\n", text)  # other tests may keep the machine busy
    assert re.search(r"Budget +asked 50\.0%, kept 50\.0%", text)
    plot = picture(server, report)
    assert plot.width > 1000
    assert len(plot.convert("RGB").getcolors(1 << 20)) > 8


def test_the_comparison_finds_the_clips_close(finished: Finished) -> None:
    (comparison,) = finished.shown_by("AstraeaCompare")
    assert float(re.match(r"(\d+\.\d+) dB: ", comparison["text"][0])[1]) > 30


def test_queueing_again_samples_nothing_again(finished: Finished, server: ComfyServer) -> None:
    before = server.log.count("Astraea: 20 steps")
    server.queue(finished.prompt)
    assert server.log.count("Astraea: 20 steps") == before
