"""The quick start: the shipped workflow, through a real server, on the tiny model."""

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


def test_both_clips_come_out_as_animations(finished: Finished, server: ComfyServer) -> None:
    clips = [picture(server, shown) for shown in finished.shown_by("SaveAnimatedWEBP")]
    assert [(clip.format, clip.size, clip.n_frames) for clip in clips] == [("WEBP", (256, 256), 6)] * 2


def test_the_clips_are_not_plain(finished: Finished, server: ComfyServer) -> None:
    for shown in finished.shown_by("SaveAnimatedWEBP"):
        ranges = picture(server, shown).convert("RGB").getextrema()
        assert max(high - low for low, high in ranges) > 60, "the frame is a plain surface"


@pytest.mark.usefixtures("finished")
def test_the_log_names_the_gain(server: ComfyServer) -> None:
    lines = [line for line in server.log.splitlines() if line.startswith("Astraea: 30 steps")]
    assert re.search(r"(39|40)\.\d% of tokens computed .*\d\.\d\dx the speed", lines[-1])


def test_the_report_comes_back_as_text_and_plot(finished: Finished, server: ComfyServer) -> None:
    (report,) = finished.shown_by("AstraeaReport")
    (text,) = report["text"]
    assert re.match(r"Astraea: \d\.\d\dx the speed of its own full steps\n", text)
    assert re.search(r"Budget +asked (39|40)\.\d%, kept (39|40)\.\d%", text)
    assert len(re.findall(r"^ +\d+ +\d\.\d{4}", text, re.MULTILINE)) == 30
    plot = picture(server, report)
    assert plot.width > 1000
    assert len(plot.convert("RGB").getcolors(1 << 20)) > 8


def test_the_comparison_finds_the_clips_close(finished: Finished) -> None:
    (comparison,) = finished.shown_by("AstraeaCompare")
    decibels = float(re.match(r"PSNR (\d+\.\d+) dB", comparison["text"][0])[1])
    assert decibels > 25
    assert len(comparison["images"]) == 6


def test_queueing_again_samples_nothing_again(finished: Finished, server: ComfyServer) -> None:
    before = server.log.count("Astraea: 30 steps")
    server.queue(finished.prompt)
    assert server.log.count("Astraea: 30 steps") == before
