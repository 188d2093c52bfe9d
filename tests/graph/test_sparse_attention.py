"""Astraea Sparse Attention on a real server: what a user reads of a run, and of values that cannot work."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prompts import node, sparse
from server import ComfyServer, PromptFailed, ServerError

REFUSED = {
    "density too low": ({"density": 0.01}, "smaller than min of 0.05.*density"),
    "density too high": ({"density": 1.5}, r"bigger than max of 1\.0.*density"),
    "density as text": ({"density": "little"}, "density, little"),
    "density not a number": ({"density": "nan"}, "'density' takes a number from 0.05 to 1, not nan"),
    "negative start": ({"dense_start": -0.1}, r"smaller than min of 0\.0.*dense_start"),
    "unknown choice": ({"choice": "magic"}, "choice: 'magic' not in|'choice' takes one of auto, routing"),
    "unknown rest": ({"rest": "double"}, "rest: 'double' not in|'rest' takes one of drop, mean"),
    "unknown kernel": ({"kernel": "magic"}, "kernel: 'magic' not in|'kernel' takes one of auto, own"),
    "limit too high": ({"limit": 2.0}, r"bigger than max of 1\.0.*limit"),
    "negative tokens": ({"min_tokens": -1}, "smaller than min of 0.*min_tokens"),
}


def text_of(server: ComfyServer, prompt: dict[str, Any]) -> str:
    outputs = server.wait(server.submit(prompt))["outputs"]
    return outputs["report"]["text"][0]


def test_a_run_reports_what_was_sparse(server: ComfyServer) -> None:
    text = text_of(server, sparse())
    assert text.startswith("Astraea Sparse Attention\n")
    assert "7 of 8 layers, 7 of 8 steps" in text
    assert re.search(r"output off by \d+% on sampled rows", text)
    assert "Heads took" in text


def test_the_plot_of_a_sparse_run_is_an_image(server: ComfyServer) -> None:
    outputs = server.wait(server.submit(sparse(steps=4)))["outputs"]
    assert outputs["report"]["images"]


def test_a_short_clip_is_left_alone_and_the_report_says_why(server: ComfyServer) -> None:
    text = text_of(server, sparse(min_tokens=8000, steps=3))
    assert text.startswith("Astraea Sparse Attention: nothing was changed")
    assert "tokens are fewer than min_tokens, 8000" in text


@pytest.mark.parametrize("first", ["accelerate", "sparse"])
def test_both_nodes_in_either_order_report_into_each_other(server: ComfyServer, first: str) -> None:
    prompt = sparse(steps=12)
    prompt["accelerate"] = node(
        "AstraeaAccelerate", model=["sparse", 0], schedule="auto", budget=0.5, target_speedup=0.0
    )
    last = "accelerate"
    if first == "accelerate":
        prompt["accelerate"]["inputs"]["model"], prompt["sparse"]["inputs"]["model"] = ["loader", 0], ["accelerate", 0]
        last = "sparse"
    prompt["sampler"]["inputs"]["model"] = [last, 0]
    prompt["report"]["inputs"]["report"] = ["accelerate", 1]
    text = text_of(server, prompt)
    assert re.match(r"Astraea: \d\.\d× · ", text)
    assert re.search(r"Sparse attention +7 of 8 layers", text)


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_a_bad_setting_is_one_error(server: ComfyServer, settings: dict[str, Any], message: str) -> None:
    try:
        server.wait(server.submit(sparse(**settings)))
    except PromptFailed as error:
        answer = str(error).partition("\n")[0]
    except ServerError as error:
        (bad,) = json.loads(str(error).partition("400 ")[2])["node_errors"].values()
        (only,) = bad["errors"]
        answer = f"{only['message']} {only['details']}"
    else:
        raise AssertionError("nothing was refused")
    assert re.search(message, answer)
