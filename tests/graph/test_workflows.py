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
from workflow import WORKFLOWS, ids_of, load, load_if_known, models, real_nodes, to_prompt, widgets

NAMES = sorted(path.name for path in WORKFLOWS.glob("*.json"))
WITH_MODELS = [name for name in NAMES if models(load(name))]
FRAMES = {"width": 64, "height": 64, "batch_size": 5, "color": 0}
# Widgets of the values in the workflows, by place: the first widgets of these nodes on all hosts.
STANDS_FOR = {
    "BasicScheduler": ["scheduler", "steps", "denoise"],
    "CFGGuider": ["cfg"],
    "CLIPLoader": ["clip_name", "type", "device"],
    "CLIPTextEncode": ["text"],
    "CLIPVisionEncode": ["crop"],
    "CLIPVisionLoader": ["clip_name"],
    "CheckpointLoaderSimple": ["ckpt_name"],
    "CreateVideo": ["fps"],
    "DualCLIPLoader": ["clip_name1", "clip_name2", "type", "device"],
    "EmptyHunyuanLatentVideo": ["width", "height", "length", "batch_size"],
    "EmptyHunyuanVideo15Latent": ["width", "height", "length", "batch_size"],
    "EmptyLTXVLatentVideo": ["width", "height", "length", "batch_size"],
    "KSampler": ["seed", None, "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "KSamplerAdvanced": [
        "add_noise",
        "noise_seed",
        None,
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "start_at_step",
        "end_at_step",
        "return_with_leftover_noise",
    ],
    "KSamplerSelect": ["sampler_name"],
    "LTXAVTextEncoderLoader": ["text_encoder", "ckpt_name", "device"],
    "LTXVAudioVAELoader": ["ckpt_name"],
    "LTXVConditioning": ["frame_rate"],
    "LTXVEmptyLatentAudio": ["frames_number", "frame_rate", "batch_size"],
    "LatentUpscaleModelLoader": ["model_name"],
    "LoadImage": ["image"],
    "LoraLoaderModelOnly": ["lora_name", "strength_model"],
    "ManualSigmas": ["sigmas"],
    "MiniMaxH3ImageToVideo": ["prompt", "width", "height", "length"],
    "ModelSamplingSD3": ["shift"],
    "MultiGPU_WorkUnits": ["max_gpus"],
    "RandomNoise": ["noise_seed", None],
    "SaveAnimatedWEBP": ["filename_prefix", "fps", "lossless", "quality", "method"],
    "SaveVideo": ["filename_prefix"],
    "UNETLoader": ["unet_name", "weight_dtype"],
    "VAEDecodeTiled": ["tile_size", "overlap", "temporal_size", "temporal_overlap"],
    "VAELoader": ["vae_name"],
    "WanImageToVideo": ["width", "height", "length", "batch_size"],
}


@pytest.mark.parametrize("name", NAMES)
def test_every_node_of_ours_has_a_value_for_each_of_its_widgets(
    name: str, server: ComfyServer, definitions: dict[str, Any]
) -> None:
    workflow = load_if_known(name, definitions, server.host.version_tuple)
    for each in real_nodes(workflow):
        if each["type"].startswith("Astraea"):
            assert len(each["widgets_values"]) == len(widgets(definitions[each["type"]])), each["type"]


@pytest.mark.parametrize("name", NAMES)
def test_values_stand_for_the_same_widgets_of_every_host(
    name: str, server: ComfyServer, definitions: dict[str, Any]
) -> None:
    workflow = load_if_known(name, definitions, server.host.version_tuple)
    for each in real_nodes(workflow):
        if not each["type"].startswith("Astraea"):
            meant = STANDS_FOR.get(each["type"], [])
            assert len(each["widgets_values"]) == len(meant), each["type"]
            assert [widget for widget, _ in widgets(definitions[each["type"]])][: len(meant)] == meant, each["type"]


def test_the_wan_template_saves_a_video(server: ComfyServer, definitions: dict[str, Any]) -> None:
    prompt = to_prompt(load("05 Wan 2.1 1.3B text to video.json"), definitions)
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


@pytest.mark.parametrize("name", WITH_MODELS)
def test_a_template_lacks_nothing_but_its_models(name: str, server: ComfyServer, definitions: dict[str, Any]) -> None:
    workflow = load_if_known(name, definitions, server.host.version_tuple)
    Image.new("RGB", (8, 8)).save(server.base / "input" / "example.png")  # every ComfyUI comes with it
    with pytest.raises(ServerError) as refused:
        server.submit(to_prompt(workflow, definitions))
    answer = json.loads(re.search(r"\{.*", str(refused.value), re.DOTALL)[0])
    lacking = {
        number: sorted({error["extra_info"]["received_value"] for error in refusal["errors"]})
        for number, refusal in answer["node_errors"].items()
    }
    assert lacking == {number: sorted(file["name"] for file in files) for number, files in models(workflow).items()}
    kinds = {error["type"] for refusal in answer["node_errors"].values() for error in refusal["errors"]}
    assert kinds == {"value_not_in_list"}


@pytest.mark.parametrize("name", WITH_MODELS)
def test_the_editor_can_offer_every_model_for_download(
    name: str, server: ComfyServer, definitions: dict[str, Any]
) -> None:
    workflow = load_if_known(name, definitions, server.host.version_tuple)
    folders = server.get_json("/models")
    for file in (file for files in models(workflow).values() for file in files):
        assert set(file) == {"name", "url", "directory"}
        assert re.fullmatch(r"https://huggingface\.co/\S+", file["url"])
        assert file["url"].partition("?")[0].rpartition("/")[2] == file["name"]
        assert file["directory"] in folders
