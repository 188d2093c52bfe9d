"""The templates of large models, run from end to end with small random models in place of their files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from server import ComfyServer
from workflow import ids_of, load_if_known, to_prompt

from hosts import HOW_TO, current_host
from shipped import copy_shipped

pytestmark = pytest.mark.slow
STAND_INS = Path(__file__).with_name("stand_ins.py")
SMALL = {"width": 64, "height": 64, "length": 22, "frames_number": 22, "min_tokens": 0, "kernel": "own"}
# A layer that each LoRA changes.
LORAS = {
    "ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors": "transformer_blocks.0.attn1.to_q",
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors": "blocks.0.self_attn.q",
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors": "blocks.0.self_attn.q",
}
# Steps of the sampler behind each Astraea Accelerate.
STEPS = {
    "07 HunyuanVideo 1.5 text to video.json": [20],
    "03 LTX-2.3 text to video with sound.json": [8],
    "02 MiniMax-H3 text to video.json": [20],
    "04 Wan 2.2 14B text to video.json": [10, 10],
    "06 Wan 2.1 14B image to video.json": [20],
    "12 Wan 2.2 14B on two GPUs.json": [10, 10],
}
# Steps with sparse attention, and all, of the sampler behind each Astraea Sparse Attention.
SPARSE_STEPS = {
    "08 Sparse attention, LTX-2.3 in 8 steps.json": [(7, 8), (3, 3)],  # the second pass goes on from the first
    "09 Sparse attention, Wan 2.2 in 4 steps.json": [(1, 2), (2, 2)],
}


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    host = current_host()
    if host is None:
        pytest.skip(f"No ComfyUI was found. {HOW_TO}")
    with ComfyServer(host, install_with_stand_ins) as running:
        Image.new("RGB", (64, 64), "teal").save(running.base / "input" / "example.png")
        (running.base / "models" / "loras").mkdir()
        for name, layer in LORAS.items():
            lora = {
                f"diffusion_model.{layer}.lora_{part}.weight": torch.full(shape, 0.01)
                for part, shape in (("A", (4, 128)), ("B", (128, 4)))
            }
            save_file(lora, running.base / "models" / "loras" / name)
        yield running


def install_with_stand_ins(pack: Path) -> None:
    copy_shipped(pack)
    shutil.copy(STAND_INS, pack.parent)


@pytest.mark.parametrize("name", STEPS)
def test_a_template_makes_a_video_with_fewer_model_calls(
    name: str, server: ComfyServer, definitions: dict[str, Any]
) -> None:
    for text, steps in zip(reports_of(name, server, definitions), STEPS[name], strict=True):
        computed, skipped = calls(text)
        assert computed + skipped == steps, text
        assert skipped > 0, text


@pytest.mark.parametrize("name", SPARSE_STEPS)
def test_a_template_makes_a_video_with_sparse_attention(
    name: str, server: ComfyServer, definitions: dict[str, Any]
) -> None:
    for text, steps in zip(reports_of(name, server, definitions), SPARSE_STEPS[name], strict=True):
        sparse, all_steps = re.search(r"(\d+) of (\d+) steps, density", text).groups()
        assert (int(sparse), int(all_steps)) == steps, text


def reports_of(name: str, server: ComfyServer, definitions: dict[str, Any]) -> list[str]:
    """Run a template with stand-ins, check that it saved a video, and return the texts of its reports."""
    workflow = load_if_known(name, definitions, server.host.version_tuple)
    prompt = small_prompt(to_prompt(workflow, definitions))
    outputs = server.queue(prompt)["outputs"]
    (video,) = (outputs[number]["images"][0] for number in ids_of(prompt, "SaveVideo"))
    assert server.view(video["filename"], video["subfolder"])[4:8] == b"ftyp"
    assert "lora key not loaded" not in server.log
    return [outputs[number]["text"][0] for number in ids_of(prompt, "AstraeaReport")]


def small_prompt(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return the prompt with stand-ins for loaders and a small video, sparse at any size; the rest is its own."""
    small = {}
    for number, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind.endswith(("Loader", "LoaderSimple")):
            small[number] = {"class_type": f"StandIn{kind}", "inputs": {"file": next(iter(inputs.values()))}}
        else:
            small[number] = {"class_type": kind, "inputs": inputs | {key: SMALL[key] for key in SMALL.keys() & inputs}}
    return small


def calls(report: str) -> tuple[int, int]:
    """Return how many calls of a report were computed, in full or in part, and how many were not."""
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (full|token|reuse)", report.split("\n\n")[1])}
    return counts.get("full", 0) + counts.get("token", 0), counts.get("reuse", 0)
