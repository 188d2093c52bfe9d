"""A search as a user runs it: through the real server, stopped, killed and taken up again."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prompts import accelerated, node, search
from server import ComfyServer, PromptFailed, PromptInterrupted
from workflow import ids_of, load, to_prompt

from hosts import HOW_TO, current_host
from shipped import copy_shipped

pytestmark = pytest.mark.slow
QUICK, GOOD, THOROUGH = "quick (10 clips)", "good (30 clips)", "thorough (100 clips)"
SMALL = b'"key":"small '  # in the run_log, of runs of small clips


def schedules(server: ComfyServer) -> Path:
    return server.base / "user" / "astraea" / "schedules"


def run_logs(server: ComfyServer) -> list[Path]:
    return sorted((server.base / "user" / "astraea" / "search").glob("*.jsonl"))


def text_of(server: ComfyServer, prompt: dict[str, Any]) -> str:
    return server.queue(prompt)["outputs"]["search"]["text"][0]


def lines(run_log: Path) -> int:
    return run_log.read_bytes().count(b"\n")


def taken_from_before(text: str) -> tuple[int, int]:
    """Candidate runs that a search used, and how many of them it had from before."""
    runs, _, cached = re.search(r"\((\d+) candidate runs(, (\d+) of them taken from before)?\)", text).groups()
    return int(runs), int(cached or 0)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def nothing_half_written(server: ComfyServer) -> bool:
    """True if every schedule file is complete."""
    files = list(schedules(server).iterdir())
    return all(path.suffix == ".json" and json.loads(path.read_text("utf-8"))["points"] for path in files)


def test_a_search_ends_with_schedules_that_accelerate_lists(server: ComfyServer) -> None:
    outputs = server.queue(search(name="fresh"))["outputs"]["search"]
    (text,) = outputs["text"]
    assert re.search(r"Budget 0\.50: fresh-0\.50\n  expected: \d\.\d\dx the speed, \d\d\.\d dB", text)
    assert f"Saved in {schedules(server)}" in text
    pictures = [server.view(file["filename"], file["subfolder"], file["type"]) for file in outputs["images"]]
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(1040, 660)]
    listed = server.object_info()["AstraeaAccelerate"]["input"]["required"]["schedule"][1]["options"]
    assert {"fresh-0.50", "fresh-0.30"} <= set(listed)
    report = server.queue(accelerated(schedule="fresh-0.50"))["outputs"]["report"]["text"][0]
    assert re.search(r"Schedule +fresh-0\.50\n", report)


def test_the_same_search_once_more_is_quick_and_finds_the_same(server: ComfyServer) -> None:
    first = text_of(server, search(name="one"))
    # Another name: the server would answer the very same prompt from its cache.
    second = text_of(server, search(name="other"))
    runs, cached = taken_from_before(second)
    assert runs == cached > 0
    assert re.findall(r"speed, [\d.]+ dB", first) == re.findall(r"speed, [\d.]+ dB", second)


def test_an_interrupt_is_obeyed_at_once_and_keeps_what_was_found(server: ComfyServer) -> None:
    before = set(run_logs(server))
    waiting = server.submit(search(steps=16, name="stopped", effort=THOROUGH, cases=4))
    wait_until(lambda: any(lines(run_log) > 12 for run_log in set(run_logs(server)) - before))
    start = time.monotonic()
    server.interrupt()
    with pytest.raises(PromptInterrupted):
        server.wait(waiting, seconds=20)
    assert time.monotonic() - start < 2.0
    saved = json.loads((schedules(server) / "stopped-0.50.json").read_text("utf-8"))
    assert "interrupted after" in saved["provenance"]["found"]
    assert "saved so far: 'stopped-0.50'; Run goes on from here" in server.log
    assert nothing_half_written(server)


@pytest.mark.newest_host
def test_a_search_is_stopped_while_it_runs_small_clips_and_goes_on_from_there(server: ComfyServer) -> None:
    before = set(run_logs(server))

    def large(effort: str) -> dict[str, Any]:
        size = node("EmptyHunyuanLatentVideo", width=128, height=128, length=21, batch_size=1)
        return search(budgets="0.3", effort=effort, name="cut down") | {"size": size}

    waiting = server.submit(large(GOOD))
    wait_until(lambda: any(run_log.read_bytes().count(SMALL) > 6 for run_log in set(run_logs(server)) - before))
    start = time.monotonic()
    server.interrupt()
    with pytest.raises(PromptInterrupted):
        server.wait(waiting, seconds=20)
    assert time.monotonic() - start < 2.0
    (run_log,) = set(run_logs(server)) - before
    measured = lines(run_log) - 1
    runs, cached = taken_from_before(text_of(server, large(QUICK)))
    assert 6 < cached <= measured
    assert cached < runs
    saved = json.loads((schedules(server) / "cut down-0.30.json").read_text("utf-8"))
    assert saved["provenance"]["search"]["small_clips"] >= 12
    assert "interrupted" not in saved["provenance"]["found"]


# Another pack, whose nodes change the loaded model: into one of blocks that nobody knows, into one that cannot skip.
STRANGE_MODELS = """
import torch

class Unknown(torch.nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        return self.block(*args, **kwargs)

class StrangeBlocks:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "change"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def change(self, model):
        network = model.model.diffusion_model
        network.blocks = torch.nn.ModuleList([Unknown(block) for block in network.blocks])
        return (model,)

class FrameByFrame(StrangeBlocks):
    def change(self, model):
        model.model.diffusion_model.init_kv_caches = lambda: None
        return (model,)

NODE_CLASS_MAPPINGS = {"StrangeBlocks": StrangeBlocks, "FrameByFrame": FrameByFrame}
"""


def with_strange_models(pack: Path) -> None:
    copy_shipped(pack)
    (pack.parent / "strange_models.py").write_text(STRANGE_MODELS, "utf-8")


def server_of_its_own() -> Iterator[ComfyServer]:
    """A server that may be killed, and that has another pack."""
    host = current_host()
    if host is None:
        pytest.skip(f"No ComfyUI was found. {HOW_TO}")
    with ComfyServer(host, with_strange_models) as running:
        yield running


own_server = pytest.fixture(server_of_its_own)
own_server_of_all = pytest.fixture(server_of_its_own, scope="module")


@pytest.mark.newest_host
def test_a_search_goes_on_after_a_crash(own_server: ComfyServer) -> None:
    own_server.submit(search())
    wait_until(lambda: any(lines(run_log) > 6 for run_log in run_logs(own_server)))
    own_server.crash()
    (run_log,) = run_logs(own_server)
    measured = lines(run_log) - 1
    with run_log.open("ab") as file:
        file.write(b'0badc0de {"key": "cut off')
    own_server.restart()
    runs, cached = taken_from_before(text_of(own_server, search()))
    assert measured - 1 <= cached < runs
    assert "1 lines of" in own_server.log
    assert nothing_half_written(own_server)


@pytest.mark.newest_host
def test_a_file_in_the_place_of_the_folder_stops_it_before_it_starts(own_server_of_all: ComfyServer) -> None:
    own_server = own_server_of_all
    place = schedules(own_server)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("in the way", "utf-8")
    with pytest.raises(PromptFailed, match=r"Nothing can be written to .*Nothing has been run yet"):
        own_server.queue(search())
    assert run_logs(own_server) == []
    place.unlink()
    assert "0.50: searched-0.50" in text_of(own_server, search())


def test_a_model_of_unknown_blocks_gets_a_schedule_of_whole_steps(own_server_of_all: ComfyServer) -> None:
    prompt = search(model=["strange", 0], name="whole")
    prompt["strange"] = node("StrangeBlocks", model=["loader", 0])
    assert "Budget 0.50: whole-0.50" in text_of(own_server_of_all, prompt)
    saved = json.loads((schedules(own_server_of_all) / "whole-0.50.json").read_text("utf-8"))
    assert {share for _, share in saved["points"]} == {0.0, 1.0}


def test_a_model_that_makes_frames_one_after_another_is_refused_in_words(own_server_of_all: ComfyServer) -> None:
    before = run_logs(own_server_of_all)
    prompt = search(model=["strange", 0])
    prompt["strange"] = node("FrameByFrame", model=["loader", 0])
    with pytest.raises(PromptFailed, match=r"This model cannot be accelerated: .* makes frames one after another"):
        own_server_of_all.queue(prompt)
    assert run_logs(own_server_of_all) == before


def test_sigmas_without_steps_are_named(server: ComfyServer) -> None:
    prompt = search(sigmas=["levels", 0])
    prompt["levels"] = node("BasicScheduler", model=["loader", 0], scheduler="simple", steps=1, denoise=1.0)
    with pytest.raises(PromptFailed, match="There are no steps to save"):
        server.queue(prompt)


@pytest.mark.newest_host
def test_the_search_workflow_ends_with_a_clip_of_the_schedule_it_found(server: ComfyServer) -> None:
    prompt = to_prompt(load("10 Search (no download).json"), server.object_info())
    (searching,) = ids_of(prompt, "AstraeaSearch")
    prompt[searching]["inputs"] |= {"effort": QUICK, "cases": 2}
    outputs = server.queue(prompt)["outputs"]
    (report,) = (outputs[number]["text"][0] for number in ids_of(prompt, "AstraeaReport"))
    assert re.search(r"Schedule +demo search-0\.50\n", report)
    assert re.search(r"Promised +\d\.\d\dx, \d\d\.\d dB", report)
    (clip,) = (outputs[number]["images"][0] for number in ids_of(prompt, "SaveAnimatedWEBP"))
    assert server.view(clip["filename"], clip["subfolder"])[:4] == b"RIFF"
