"""What cannot work is refused when it is queued, in words a user can act on, before a model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from prompts import accelerated, node, search
from server import ComfyServer, ServerError

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
ACCELERATE = {
    "budget too low": ({"budget": 0.05}, "The budget 0.05 is outside 0.2...1.0"),
    "budget too high": ({"budget": 1.5}, "The budget 1.5 is outside"),
    "budget not a number": ({"budget": math.nan}, "The budget nan is outside"),
    "target too high": ({"target_speedup": 20.0}, "The target speed-up 20 is outside 1...8"),
    "target below one": ({"target_speedup": 0.5}, "The target speed-up 0.5 is outside"),
    "target infinite": ({"target_speedup": math.inf}, "The target speed-up inf is outside"),
    "unknown schedule": ({"schedule": "from another machine"}, "There is no schedule named 'from another machine'"),
    "path as schedule": ({"schedule": "../../../etc/passwd"}, "not a usable schedule name"),
    "backslashes": ({"schedule": "..\\..\\secret"}, "not a usable schedule name"),
    "unknown mode": ({"mode": "by hand"}, "Mode 'by hand' is unknown; choose one of schedule's own, default, paper"),
    "unknown cache": ({"cache": "none at all"}, "Cache 'none at all' is unknown; choose one of auto, full"),
    "unknown attention": ({"attention": "magic"}, "Attention 'magic' is unknown; choose one of auto, host, fast"),
    "leading dot": ({"schedule": ".hidden"}, "not a usable schedule name"),
}
SEARCH = {
    "no step": ({"steps": 0}, "0 steps cannot be searched: at least 2 are needed"),
    "one step": ({"steps": 1}, "1 steps cannot be searched"),
    "endless cfg": ({"cfg": math.inf}, "The cfg inf is outside"),
    "no clip": ({"cases": 0}, "0 clips are outside 1...16"),
    "seed too high": ({"first_seed": 2**64}, "is outside 0...2^64"),
    "unknown sampler": ({"sampler_name": "magic"}, "The sampler 'magic' is unknown; choose one of euler"),
    "unknown scheduler": ({"scheduler": "magic"}, "The scheduler 'magic' is unknown; choose one of"),
    "unknown effort": ({"effort": "endless"}, "The effort 'endless' is unknown; choose one of quick"),
    "no budget": ({"budgets": " "}, "There is no budget to search for"),
    "words for budgets": ({"budgets": "abc"}, "'abc' is not a budget"),
    "decimal comma": ({"budgets": "0,5"}, "Decimals are written with a point"),
    "budget too low": ({"budgets": "0.5, 0.1"}, "The budget 0.1 is outside 0.2...0.95"),
    "budget twice": ({"budgets": "0.5, 0.50"}, "The budget 0.50 is listed twice"),
    "path as name": ({"name": "../evil"}, "not a usable schedule name"),
    "slash in name": ({"name": "a/b"}, "not a usable schedule name"),
    "auto as name": ({"name": "auto"}, "give the schedules another name"),
}


@pytest.fixture
def refusal(server: ComfyServer) -> Callable[[dict[str, Any]], str]:
    """Queues a prompt that must be refused, and returns the answer."""

    def submit(prompt: dict[str, Any]) -> str:
        before = server.log.count("got prompt")
        loads = server.log.count("model weight dtype")
        with pytest.raises(ServerError) as refused:
            server.submit(prompt)
        assert server.log.count("got prompt") == before + 1
        assert server.get_json("/queue") == {"queue_running": [], "queue_pending": []}
        assert server.log.count("model weight dtype") == loads, "a model was loaded"
        return json.loads(str(refused.value).partition("400 ")[2])["node_errors"]

    return lambda prompt: json.dumps(submit(prompt), ensure_ascii=False).replace('\\"', '"').replace("\\\\", "\\")


@pytest.mark.parametrize(("text", "message"), INLINE.values(), ids=INLINE)
def test_a_bad_inline_schedule_is_refused(text: str, message: str, refusal: Callable) -> None:
    prompt = accelerated(astraea_schedule=["inline", 0])
    prompt["inline"] = node("AstraeaScheduleInline", schedule_json=text)
    answer = refusal(prompt)
    assert "The text in Astraea Schedule Inline" in answer or "Schedule '" in answer or "schedule name" in answer
    assert message in answer


@pytest.mark.parametrize(("settings", "message"), ACCELERATE.values(), ids=ACCELERATE)
def test_a_bad_setting_of_accelerate_is_refused(settings: dict, message: str, refusal: Callable) -> None:
    assert message in refusal(accelerated(**settings))


@pytest.mark.parametrize(("settings", "message"), SEARCH.values(), ids=SEARCH)
def test_a_bad_setting_of_search_is_refused(settings: dict, message: str, refusal: Callable) -> None:
    assert message in refusal(search(**settings))


def test_an_unknown_schedule_names_the_known_ones(refusal: Callable) -> None:
    assert "Known ones: " in refusal(accelerated(schedule="nowhere"))


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


def test_a_list_that_no_longer_has_the_name_says_so(refusal: Callable) -> None:
    assert "There is no schedule named 'gone'" in refusal(loaded("gone"))


def test_compare_wants_one_pair(refusal: Callable) -> None:
    prompt = accelerated()
    del prompt["report"]
    prompt["compare"] = node("AstraeaCompare", latents_a=["sampler", 0])
    assert "needs exactly one pair" in refusal(prompt)


def test_an_endless_demo_prompt_is_refused(refusal: Callable) -> None:
    prompt = accelerated()
    prompt["words"]["inputs"]["text"] = "red " * 1000
    assert "at most 96" in refusal(prompt)


def loaded(name: str) -> dict[str, Any]:
    prompt = accelerated(astraea_schedule=["load", 0])
    prompt["load"] = node("AstraeaScheduleLoad", schedule_name=name)
    return prompt
