"""The example workflows that ComfyUI's template browser offers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from server import ComfyServer, ServerError
from workflow import WORKFLOWS, load, real_nodes, to_prompt

NAMES = sorted(path.name for path in WORKFLOWS.glob("*.json"))
LOADERS = {"UNETLoader", "CLIPLoader", "VAELoader"}


@pytest.fixture(scope="module")
def definitions(server: ComfyServer) -> dict[str, Any]:
    return server.object_info()


@pytest.mark.parametrize("name", NAMES)
def test_every_node_is_known_to_the_server(name: str, definitions: dict[str, Any]) -> None:
    assert {node["type"] for node in real_nodes(load(name))} <= set(definitions)


@pytest.mark.parametrize("name", NAMES)
def test_every_node_has_a_value_for_each_of_its_widgets(name: str, definitions: dict[str, Any]) -> None:
    to_prompt(load(name), definitions)  # pairs names and values strictly


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
