"""The nodes linked together: schedules are passed on, modes run, every input and output is explained."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prompts import accelerated, node
from server import PACK_FOLDER, ComfyServer, PromptFailed

SCHEDULE = {
    "format": "astraea-schedule",
    "version": 1,
    "name": "by hand",
    "points": [[round(1 - i / 12, 4), 1.0 if i % 3 == 0 or i == 11 else 0.0] for i in range(12)],
}
MODES = ("auto", "whole steps", "token steps", "paper", "schedule's own", "uniform", "whole-step hold")


def report_of(server: ComfyServer, prompt: dict[str, Any]) -> str:
    return server.queue(prompt)["outputs"]["report"]["text"][0]


def ours(server: ComfyServer) -> dict[str, Any]:
    return {name: each for name, each in server.object_info().items() if name.startswith("Astraea")}


def test_every_input_and_output_has_a_tooltip(server: ComfyServer) -> None:
    silent = []
    for name, each in ours(server).items():
        for group in ("required", "optional"):
            inputs = each["input"].get(group, {})
            silent += [f"{name}.{key}" for key, (_, *rest) in inputs.items() if not (rest and rest[0].get("tooltip"))]
        silent += [f"{name}: output" for tip in each["output_tooltips"] or [] if not tip]
        silent += [] if each["description"] else [name]
    assert silent == []


def test_every_node_has_a_help_page(server: ComfyServer) -> None:
    for name, each in ours(server).items():
        page = server.get(f"/extensions/{PACK_FOLDER}/docs/{name}.md").decode()
        # Newer editors cut the folder's name at its first dot.
        assert server.get(f"/extensions/{PACK_FOLDER.split('.')[0]}/docs/{name}.md").decode() == page
        assert page.startswith(f"# {each['display_name']}\n")


def test_an_inline_schedule_is_what_runs(server: ComfyServer) -> None:
    prompt = accelerated(astraea_schedule=["inline", 0])
    prompt["inline"] = node("AstraeaScheduleInline", schedule_json=json.dumps(SCHEDULE))
    assert re.search(r"Schedule +by hand\n", report_of(server, prompt))


def test_a_saved_schedule_can_be_loaded_and_chosen(server: ComfyServer) -> None:
    saving = {
        "inline": node("AstraeaScheduleInline", schedule_json=json.dumps(SCHEDULE)),
        "save": node("AstraeaScheduleSave", schedule=["inline", 0], name="kept", overwrite=False),
    }
    (shown,) = server.queue(saving)["outputs"]["save"]["text"]
    assert shown == f"Saved as {server.base / 'user' / 'astraea' / 'schedules' / 'kept.json'}"
    assert "kept" in server.object_info()["AstraeaAccelerate"]["input"]["required"]["schedule"][1]["options"]
    assert re.search(r"Schedule +kept\n", report_of(server, accelerated(schedule="kept")))


def test_a_taken_name_is_kept_unless_overwriting_is_allowed(server: ComfyServer) -> None:
    def saving(overwrite: bool, **entries: Any) -> dict[str, Any]:
        text = json.dumps(SCHEDULE | entries)
        return {
            "inline": node("AstraeaScheduleInline", schedule_json=text),
            "save": node("AstraeaScheduleSave", schedule=["inline", 0], name="taken", overwrite=overwrite),
        }

    server.queue(saving(False))
    server.queue(saving(False, family="any"))  # the same schedule once more is no conflict
    with pytest.raises(PromptFailed, match="A schedule named 'taken' exists"):
        server.queue(saving(False, mode="hold"))
    server.queue(saving(True, mode="hold"))
    saved = server.base / "user" / "astraea" / "schedules" / "taken.json"
    assert json.loads(saved.read_text("utf-8"))["mode"] == "hold"


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_finishes_near_its_budget(mode: str, server: ComfyServer) -> None:
    text = report_of(server, accelerated(steps=20, mode=mode, budget=0.5))
    kept = float(re.search(r"kept (\d+\.\d)%", text)[1])
    assert kept == pytest.approx(50, abs=3)
    if mode.startswith("whole"):
        assert " token" not in text.split("Budget")[0]


@pytest.mark.parametrize("cache", ["full", "fp8", "fp8-host", "none"])
def test_every_cache_finishes(cache: str, server: ComfyServer) -> None:
    text = report_of(server, accelerated(mode="token steps", cache=cache))
    assert f"({'whole steps' if cache == 'none' else cache})" in text


ATTENTION = {
    "host": r"ComfyUI's attention_pytorch$",
    "cpu-tiles": r"'cpu-tiles', asked for$",
    "auto": r"(ComfyUI's attention_pytorch$|'[\w-]+', timed \d\.\d\dx as fast as ComfyUI's)",
    "sage": r"(ComfyUI's attention_pytorch$|'[\w-]+', timed )",  # not on a CPU: as auto
}


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_report_states_the_attention(attention: str, server: ComfyServer) -> None:
    text = report_of(server, accelerated(mode="token steps", attention=attention))
    assert re.search(rf"^Attention +{ATTENTION[attention]}", text, re.MULTILINE), text


def test_the_log_states_an_attention_that_cannot_run(server: ComfyServer) -> None:
    server.queue(accelerated(mode="token steps", attention="flash-attn-3"))
    assert "attention 'flash-attn-3' cannot be used and another is: runs on cuda, not on cpu" in server.log


def test_budget_one_computes_everything(server: ComfyServer) -> None:
    text = report_of(server, accelerated(budget=1.0))
    assert text.startswith("Astraea: every step was computed in full")
    assert "nothing kept" in text


def test_a_target_speedup_sets_the_budget(server: ComfyServer) -> None:
    text = report_of(server, accelerated(steps=30, target_speedup=2.0))
    assert "aiming at 2x" in text
    assert float(re.search(r"(\d\.\d\d)x ideal", text)[1]) == pytest.approx(2.0, abs=0.1)


def test_a_report_without_a_run_says_what_to_connect(server: ComfyServer) -> None:
    prompt = accelerated()
    prompt["report"]["inputs"]["samples"] = ["size", 0]
    assert "Connect 'samples' to the LATENT output of the sampler" in report_of(server, prompt)
