"""The example workflows that ComfyUI's template browser offers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prompts import node
from server import ComfyServer, ServerError
from workflow import WORKFLOWS, ids_of, load, real_nodes, to_prompt, widgets

NAMES = sorted(path.name for path in WORKFLOWS.glob("*.json"))
LOADERS = {"UNETLoader", "CLIPLoader", "VAELoader"}
FRAMES = {"width": 64, "height": 64, "batch_size": 5, "color": 0}
# Widgets of the values in the workflows, by place: the first widgets of these nodes on all hosts.
STANDS_FOR = {
    "CLIPLoader": ["clip_name", "type", "device"],
    "CLIPTextEncode": ["text"],
    "CreateVideo": ["fps"],
    "EmptyHunyuanLatentVideo": ["width", "height", "length", "batch_size"],
    "KSampler": ["seed", None, "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "ModelSamplingSD3": ["shift"],
    "SaveAnimatedWEBP": ["filename_prefix", "fps", "lossless", "quality", "method"],
    "SaveVideo": ["filename_prefix"],
    "UNETLoader": ["unet_name", "weight_dtype"],
    "VAELoader": ["vae_name"],
}


@pytest.fixture(scope="module")
def definitions(server: ComfyServer) -> dict[str, Any]:
    return server.object_info()


@pytest.mark.parametrize("name", NAMES)
def test_every_node_is_known_to_the_server(name: str, definitions: dict[str, Any]) -> None:
    assert {node["type"] for node in real_nodes(load(name))} <= set(definitions)


@pytest.mark.parametrize("name", NAMES)
def test_every_node_of_ours_has_a_value_for_each_of_its_widgets(name: str, definitions: dict[str, Any]) -> None:
    for each in real_nodes(load(name)):
        if each["type"].startswith("Astraea"):
            assert len(each["widgets_values"]) == len(widgets(definitions[each["type"]])), each["type"]


@pytest.mark.parametrize("name", NAMES)
def test_values_stand_for_the_same_widgets_of_every_host(name: str, definitions: dict[str, Any]) -> None:
    for each in real_nodes(load(name)):
        if not each["type"].startswith("Astraea"):
            meant = STANDS_FOR.get(each["type"], [])
            assert len(each["widgets_values"]) == len(meant), each["type"]
            assert [widget for widget, _ in widgets(definitions[each["type"]])][: len(meant)] == meant, each["type"]


def test_the_wan_template_saves_a_video(server: ComfyServer, definitions: dict[str, Any]) -> None:
    prompt = to_prompt(load("wan_t2v.json"), definitions)
    (creating,), (saving,) = (ids_of(prompt, kind) for kind in ("CreateVideo", "SaveVideo"))
    clip = {creating: prompt[creating], saving: prompt[saving], "clip": node("EmptyImage", **FRAMES)}
    clip[creating]["inputs"]["images"] = ["clip", 0]
    (saved,) = server.queue(clip)["outputs"][saving]["images"]
    assert saved["filename"] == "astraea_wan_00001_.mp4"
    assert server.view(saved["filename"], saved["subfolder"])[4:8] == b"ftyp"


@pytest.mark.parametrize("name", NAMES)
def test_every_link_joins_the_slots_it_names(name: str) -> None:
    workflow = load(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, origin, slot, target, target_slot, kind in workflow["links"]:
        assert number in nodes[origin]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][target_slot]["link"] == number
        assert nodes[origin]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][target_slot]["type"] in (kind, "*")


@pytest.mark.parametrize("name", NAMES)
def test_the_template_browser_shows_a_thumbnail(name: str, server: ComfyServer) -> None:
    assert Image.open((WORKFLOWS / name).with_suffix(".jpg")).format == "JPEG"
    listed = server.get_json("/workflow_templates")[server.pack.name]
    assert Path(name).stem in listed


@pytest.mark.parametrize(("name", "loaders"), [("wan_t2v.json", LOADERS), ("wan_search.json", LOADERS - {"VAELoader"})])
def test_a_wan_template_lacks_nothing_but_its_models(
    name: str, loaders: set[str], server: ComfyServer, definitions: dict[str, Any]
) -> None:
    with pytest.raises(ServerError) as refused:
        server.submit(to_prompt(load(name), definitions))
    answer = json.loads(re.search(r"\{.*", str(refused.value), re.DOTALL)[0])
    assert {node["class_type"] for node in answer["node_errors"].values()} == loaders
