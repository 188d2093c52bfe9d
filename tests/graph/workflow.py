"""Workflows as the editor saves them, turned into what it sends to the server when a user presses Run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
ONLY_IN_THE_EDITOR = {"MarkdownNote", "Note", "Reroute", "PrimitiveNode"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def load(name: str) -> dict[str, Any]:
    """A shipped workflow."""
    return json.loads((WORKFLOWS / name).read_text("utf-8"))


def real_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes that the server knows; notes and the like are the editor's own."""
    return [node for node in workflow["nodes"] if node["type"] not in ONLY_IN_THE_EDITOR]


def widget_names(definition: dict[str, Any]) -> list[str | None]:
    """The widgets of a node in the editor's order; None stands for a seed's 'control after generate'."""
    names: list[str | None] = []
    for group in ("required", "optional"):
        for name, (kind, *options) in definition["input"].get(group, {}).items():
            settings = options[0] if options else {}
            if not (isinstance(kind, list) or kind in WIDGET_TYPES) or settings.get("forceInput"):
                continue
            names.append(name)
            if settings.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
                names.append(None)
    return names


def to_prompt(workflow: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The workflow in API format."""
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in real_nodes(workflow):
        names = widget_names(definitions[node["type"]])
        inputs = {name: value for name, value in zip(names, node["widgets_values"], strict=True) if name}
        inputs |= {each["name"]: origins[each["link"]] for each in node["inputs"] if each["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def ids_of(prompt: dict[str, Any], kind: str) -> list[str]:
    """The ids of the nodes of one type, in the workflow's order."""
    return [number for number, node in prompt.items() if node["class_type"] == kind]
