"""What one sees when a workflow is opened: it fits a screen, and nothing lies upon another."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from server import ComfyServer
from workflow import WORKFLOWS, load, load_if_known, real_nodes, widgets

NAMES = sorted(path.name for path in WORKFLOWS.glob("*.json"))
MAX_WIDTH = 1700
TITLE_HEIGHT, SOCKET_HEIGHT, WIDGET_HEIGHT = 30, 20, 24  # of the editor, in pixels
RESULT_HEIGHT = {"AstraeaAccelerate": 50, "AstraeaSparseAttention": 100}  # of the text that a run adds
Box = tuple[float, float, float, float]  # left, top, right, bottom


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_no_wider_than_a_screen(name: str) -> None:
    boxes = [group_box(group) for group in load(name)["groups"]]
    assert max(right for _, _, right, _ in boxes) - min(left for left, *_ in boxes) <= MAX_WIDTH


@pytest.mark.parametrize("name", NAMES)
def test_every_node_lies_in_one_group(name: str) -> None:
    workflow = load(name)
    groups = [group_box(group) for group in workflow["groups"]]
    for node in workflow["nodes"]:
        assert [contains(group, node_box(node)) for group in groups].count(True) == 1, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_lies_upon_another(name: str) -> None:
    workflow = load(name)
    nodes = {f"{node['id']} {node['type']}": node_box(node) for node in workflow["nodes"]}
    groups = {group["title"]: group_box(group) for group in workflow["groups"]}
    for boxes in (nodes, groups):
        assert [pair for pair in combinations(boxes, 2) if overlap(*(boxes[name] for name in pair))] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_node_is_high_enough_for_its_widgets(name: str, server: ComfyServer, definitions: dict[str, Any]) -> None:
    for node in real_nodes(load_if_known(name, definitions, server.host.version_tuple)):
        kind = node["type"]
        assert node["size"][1] >= least_height(definitions[kind]) + RESULT_HEIGHT.get(kind, 0), kind


def node_box(node: dict[str, Any]) -> Box:
    """Return a node's box with its title bar, which lies above its position."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def group_box(group: dict[str, Any]) -> Box:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def contains(outer: Box, inner: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def least_height(definition: dict[str, Any]) -> float:
    """Return the height below which the editor enlarges a node when it opens a workflow."""
    rows = [name for name, _ in widgets(definition)]
    inputs = [name for group in ("required", "optional") for name in definition["input"].get(group, {})]
    sockets = max(len([name for name in inputs if name not in rows]), len(definition["output"]))
    return SOCKET_HEIGHT * sockets + (WIDGET_HEIGHT * len(rows) + 14 if rows else 6)
