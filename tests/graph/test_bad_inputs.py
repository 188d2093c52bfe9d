"""Values that cannot work are refused with one error that a user can act on, if possible before anything runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from prompts import accelerated, node, search
from server import ComfyServer, PromptFailed, ServerError

GOOD = {
    "format": "astraea-schedule",
    "version": 1,
    "name": "good",
    "points": [[1.0, 1.0], [0.8, 0.0], [0.5, 0.5], [0.2, 1.0]],
}
DEEP = "[" * 100_000 + "]" * 100_000


def changed(**entries: Any) -> str:
    return json.dumps(GOOD | entries)


INLINE = {
    "empty": ("", "not valid JSON"),
    "not JSON": ("{points: 1}", "not valid JSON"),
    "not an object": ("[1, 2]", "not an Astraea schedule"),
    "another format": (changed(format="something-else"), "not an Astraea schedule"),
    "nested without end": (DEEP, "not"),
    "newer version": (changed(version=2), "version 2"),
    "no points": (changed(points=[]), "points"),
    "too many points": (changed(points=[[1.0 - i / 5000, 0.5] for i in range(2000)]), "2000 points"),
    "oversized": (changed(provenance={"text": "x" * 300_000}), "larger than"),
    "NaN": (changed(points=[[1.0, math.nan]]), "NaN"),
    "infinite sigma": (changed(points=[[math.inf, 1.0]]), "Infinity"),
    "overflowing sigma": (changed().replace("[1.0, 1.0]", "[1e999, 1.0]"), "sigma inf"),
    "negative budget": (changed(points=[[1.0, -0.1]]), "budget -0.1"),
    "budget above one": (changed(points=[[1.0, 1.5]]), "budget 1.5"),
    "rising sigma": (changed(points=[[0.5, 1.0], [0.8, 1.0]]), "point 2"),
    "words for numbers": (changed(points=[["1.0", "1.0"]]), "point 1"),
    "path as name": (changed(name="../../evil"), "not a usable schedule name"),
    "unknown mode": (changed(mode="evil"), "mode 'evil'"),
    "unknown entry": (changed(code="print(1)"), "unknown entries 'code'"),
}
# Refused values, and words of the error. The host's own messages name the input and its range.
ACCELERATE = {
    "budget too low": ({"budget": 0.05}, "smaller than min of 0.1.*budget"),
    "budget too high": ({"budget": 1.5}, "bigger than max of 1.0.*budget"),
    "budget as text": ({"budget": "abc"}, "Failed to convert an input value to a FLOAT value.*budget, abc"),
    "no budget": ({"budget": None}, "Failed to convert an input value to a FLOAT value.*budget"),
    "budget not a number": ({"budget": math.nan}, "The input 'budget' takes a number from 0.1 to 1, not nan. It is"),
    "target too high": ({"target_speedup": 20.0}, "bigger than max of 10.0.*target_speedup"),
    "target below one": ({"target_speedup": 0.5}, "The input 'target_speedup' takes 0, or 1 to 10, not 0.5. 2 means"),
    "target negative": ({"target_speedup": -1.0}, "smaller than min of 0.0.*target_speedup"),
    "target infinite": ({"target_speedup": math.inf}, "bigger than max of 10.0.*target_speedup"),
    "target as text": ({"target_speedup": "fast"}, "target_speedup, fast"),
    "target not a number": ({"target_speedup": "nan"}, "'target_speedup' takes a number from 0 to 10, not nan"),
    "unknown schedule": ({"schedule": "from another machine"}, "There is no schedule named 'from another machine'"),
    "no name": ({"schedule": 5}, "5 is not a usable schedule name"),
    "path as schedule": ({"schedule": "../../../etc/passwd"}, "not a usable schedule name"),
    "backslashes": ({"schedule": "..\\..\\secret"}, "not a usable schedule name"),
    "leading dot": ({"schedule": ".hidden"}, "not a usable schedule name"),
    "device as schedule": ({"schedule": "NUL.txt"}, "Windows has a device of this name"),
    "unknown mode": (
        {"mode": "by hand"},
        "mode: 'by hand' not in|'mode' takes one of auto, whole steps, token steps, paper",
    ),
    "unknown cache": ({"cache": "none at all"}, "cache: 'none at all' not in|'cache' takes one of auto, full"),
    "unknown attention": ({"attention": "magic"}, "attention: 'magic' not in|'attention' takes one of auto, host"),
    "text as linked schedule": ({"astraea_schedule": "wan-0.40"}, "'astraea_schedule' takes a schedule from"),
}
SEARCH = {
    "no step": ({"steps": 0}, "smaller than min of 2.*steps"),
    "steps as text": ({"steps": "many"}, "Failed to convert an input value to a INT value.*steps, many"),
    "steps not a number": ({"steps": math.nan}, "Failed to convert an input value to a INT value.*steps"),
    "endless cfg": ({"cfg": math.inf}, r"bigger than max of 100\.0.*cfg"),
    "cfg not a number": ({"cfg": math.nan}, "The input 'cfg' takes a number from 0 to 100, not nan. Use that of"),
    "no clip": ({"cases": 0}, "smaller than min of 1.*cases"),
    "seed too high": ({"first_seed": 2**64}, "bigger than max of 18446744073709551615.*first_seed"),
    "unknown sampler": ({"sampler_name": "magic"}, "sampler_name: 'magic' not in|'sampler_name' takes one of euler"),
    "unknown scheduler": ({"scheduler": "magic"}, "scheduler: 'magic' not in|'scheduler' takes one of"),
    "unknown effort": ({"effort": "endless"}, "effort: 'endless' not in|'effort' takes one of instant"),
    "no budget": ({"budgets": " "}, "There is no budget to search for"),
    "words for budgets": ({"budgets": "abc"}, "'abc' is not a budget"),
    "decimal comma": ({"budgets": "0,5"}, "Write decimals with a point: 0.5, not 0,5"),
    "budget too low": ({"budgets": "0.5, 0.05"}, "The budget 0.05 is outside 0.1...0.95"),
    "budget twice": ({"budgets": "0.5, 0.50"}, "The budget 0.50 is listed twice"),
    "path as name": ({"name": "../evil"}, "not a usable schedule name"),
    "slash in name": ({"name": "a/b"}, "not a usable schedule name"),
    "auto as name": ({"name": "auto"}, "give the schedule another name"),
    "device as name": ({"name": "con"}, "Windows has a device of this name"),
    "long name": ({"name": "x" * 69}, "The name has 69 characters; at most 68 fit"),
}


@pytest.fixture
def the_error(server: ComfyServer) -> Callable[[dict[str, Any], str], str]:
    """Queue a prompt in which one value of a node cannot work, and return the only error that the user reads."""

    def queue(prompt: dict[str, Any], node_id: str) -> str:
        try:
            server.wait(server.submit(prompt))
        except PromptFailed as error:
            kind, _, message = str(error).partition("\n")[0].partition(": ")
            assert kind == prompt[node_id]["class_type"]
            return message
        except ServerError as error:
            answer = json.loads(str(error).partition("400 ")[2])["node_errors"]
            assert list(answer) == [node_id]
            (only,) = answer[node_id]["errors"]
            return f"{only['message']} {only['details']}"
        raise AssertionError("nothing was refused")

    return queue


@pytest.fixture
def refusal(server: ComfyServer) -> Callable[[dict[str, Any]], str]:
    """Queue a prompt that must be refused before anything runs, and return the only error of the bad node."""

    def submit(prompt: dict[str, Any]) -> str:
        before = server.log.count("got prompt")
        loads = server.log.count("model weight dtype")
        with pytest.raises(ServerError) as refused:
            server.submit(prompt)
        assert server.log.count("got prompt") == before + 1
        assert server.get_json("/queue") == {"queue_running": [], "queue_pending": []}
        assert server.log.count("model weight dtype") == loads, "a model was loaded"
        (bad,) = json.loads(str(refused.value).partition("400 ")[2])["node_errors"].values()
        (error,) = bad["errors"]
        return f"{error['message']} {error['details']}"

    return submit


@pytest.mark.parametrize(("text", "message"), INLINE.values(), ids=INLINE)
def test_a_bad_inline_schedule_is_refused(text: str, message: str, refusal: Callable) -> None:
    prompt = accelerated(astraea_schedule=["inline", 0])
    prompt["inline"] = node("AstraeaScheduleInline", schedule_json=text)
    answer = refusal(prompt)
    assert "The text in Astraea Schedule Inline" in answer or "Schedule '" in answer or "schedule name" in answer
    assert message in answer


@pytest.mark.parametrize(("settings", "message"), ACCELERATE.values(), ids=ACCELERATE)
def test_a_bad_setting_of_accelerate_is_one_error(settings: dict, message: str, the_error: Callable) -> None:
    assert re.search(message, the_error(accelerated(**settings), "accelerate"))


@pytest.mark.parametrize(("settings", "message"), SEARCH.values(), ids=SEARCH)
def test_a_bad_setting_of_search_is_one_error(settings: dict, message: str, the_error: Callable) -> None:
    assert re.search(message, the_error(search(**settings), "search"))


def test_an_unknown_schedule_is_answered_with_similar_and_saved_names(server: ComfyServer, refusal: Callable) -> None:
    refused = refusal(accelerated(schedule="nowhere"))
    assert "You have saved none yet. Choose 'auto', which needs none, or ask for the file 'nowhere.json'" in refused
    folder = server.base / "user" / "astraea" / "schedules"
    folder.mkdir(parents=True, exist_ok=True)
    own = [folder / f"{name}.json" for name in ("mine", "for my model")]
    for path in own:
        path.write_text(json.dumps(GOOD), "utf-8")
    try:
        refused = refusal(accelerated(schedule="mime"))
    finally:
        for path in own:
            path.unlink()
    assert "Did you mean 'mine'?" in refused
    assert "Your saved ones: 'for my model', 'mine'. Choose 'auto', which needs none, or ask" in refused
    assert "cfg" not in refused


def test_a_schedule_that_is_not_used_is_no_error(server: ComfyServer) -> None:
    """A workflow may carry its schedule, and its list name a schedule of another machine."""
    prompt = accelerated(schedule="from another machine", astraea_schedule=["inline", 0])
    prompt["inline"] = node("AstraeaScheduleInline", schedule_json=json.dumps(GOOD))
    assert "good" in server.queue(prompt)["outputs"]["report"]["text"][0]


def test_a_broken_schedule_file_is_refused(server: ComfyServer, refusal: Callable) -> None:
    folder = server.base / "user" / "astraea" / "schedules"
    folder.mkdir(parents=True, exist_ok=True)
    broken = folder / "broken.json"
    broken.write_text("{}", "utf-8")
    try:
        for prompt in (accelerated(schedule="broken"), loaded("broken")):
            assert "Schedule file 'broken.json' is not an Astraea schedule" in refusal(prompt)
    finally:
        broken.unlink()


def test_a_name_with_folders_is_not_saved(server: ComfyServer, refusal: Callable) -> None:
    prompt = accelerated()
    prompt["inline"] = node("AstraeaScheduleInline", schedule_json=json.dumps(GOOD))
    # Only this output is asked for: the others of the prompt would be run.
    del prompt["report"]
    for name in ("../evil", "a/b", "a\\b", "", "."):
        prompt["save"] = node("AstraeaScheduleSave", schedule=["inline", 0], name=name, overwrite=True)
        assert "not a usable schedule name" in refusal(prompt)
    assert not list(server.base.glob("**/evil*"))
    prompt["save"]["inputs"]["name"] = "auto"
    assert "another name" in refusal(prompt)


def test_loading_a_schedule_that_is_gone_says_so(refusal: Callable) -> None:
    assert "There is no schedule named 'gone'" in refusal(loaded("gone"))


@pytest.mark.parametrize("links", [["latents_a"], ["images_a", "images_b", "latents_a"], []])
def test_compare_needs_one_pair(links: list[str], the_error: Callable) -> None:
    prompt = accelerated()
    del prompt["report"]
    sources = {"images_a": ["view", 0], "images_b": ["view", 0], "latents_a": ["size", 0]}
    prompt["view"] = node("AstraeaDemoView", samples=["size", 0])
    prompt["compare"] = node("AstraeaCompare", **{name: sources[name] for name in links})
    assert "needs exactly one pair" in the_error(prompt, "compare")


def test_an_endless_demo_prompt_is_refused(refusal: Callable) -> None:
    prompt = accelerated()
    prompt["words"]["inputs"]["text"] = "red " * 1000
    assert "at most 96" in refusal(prompt)


def loaded(name: str) -> dict[str, Any]:
    prompt = accelerated(astraea_schedule=["load", 0])
    prompt["load"] = node("AstraeaScheduleLoad", schedule_name=name)
    return prompt


@pytest.mark.parametrize("name", ["AstraeaAccelerateRaylight", "AstraeaSparseAttentionRaylight"])
def test_the_raylight_nodes_need_raylights_workers(server: ComfyServer, name: str) -> None:
    """Without raylight nothing can be connected: the host itself says so, before anything runs."""
    prompt = accelerated()
    settings = {"schedule": "auto", "budget": 0.5, "target_speedup": 0.0, "density": 0.3, "dense_start": 0.1}
    prompt["ours"] = node(name, **{key: settings[key] for key in settings if key in inputs_of(server, name)})
    prompt["report"]["inputs"]["report"] = ["ours", 1]
    with pytest.raises((PromptFailed, ServerError), match="ray_actors"):
        server.queue(prompt)
    prompt["ours"]["inputs"]["ray_actors"] = prompt["accelerate"]["inputs"]["model"]
    with pytest.raises((PromptFailed, ServerError), match=r"RAY_ACTORS"):
        server.queue(prompt)


def inputs_of(server: ComfyServer, name: str) -> dict[str, Any]:
    return server.object_info()[name]["input"]["required"]
