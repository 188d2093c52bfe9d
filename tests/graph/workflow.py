"""Converts workflows, as the editor saves them, to the prompts that it sends to the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
ONLY_IN_THE_EDITOR = {"MarkdownNote", "Note", "Reroute", "PrimitiveNode"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
MADE_FOR = (0, 33, 0)  # this ComfyUI has every node of every workflow


def load(name: str) -> dict[str, Any]:
    """Load a shipped workflow."""
    return json.loads((WORKFLOWS / name).read_text("utf-8"))


def real_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes that the server knows: notes and the like are the editor's own."""
    return [node for node in workflow["nodes"] if node["type"] not in ONLY_IN_THE_EDITOR]


def models(workflow: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Return the model files that the editor offers to download, by node id as prompts have it."""
    found = {str(node["id"]): node["properties"].get("models") for node in workflow["nodes"]}
    return {number: files for number, files in found.items() if files}


def widgets(definition: dict[str, Any]) -> list[tuple[str | None, Any]]:
    """Return a node's widgets in the editor's order, with their defaults; None: 'control after generate'."""
    return list(_widgets(definition["input"]))


def _widgets(inputs: dict[str, Any], within: str = "") -> Iterator[tuple[str | None, Any]]:
    for group in ("required", "optional"):
        for name, (kind, *options) in inputs.get(group, {}).items():
            settings = options[0] if options else {}
            kind = settings.get("widgetType", kind)  # a socket of several types that still shows a widget
            if kind == DYNAMIC:  # shows the widgets of the chosen entry below it
                chosen = settings["options"][0]
                yield within + name, chosen["key"]
                yield from _widgets(chosen["inputs"], f"{within}{name}.")
            elif (isinstance(kind, list) or kind in WIDGET_TYPES) and not settings.get("forceInput"):
                choices = kind if isinstance(kind, list) else settings.get("options")
                yield within + name, settings.get("default", choices[0] if choices else None)
                if settings.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
                    yield None, "fixed"


def to_prompt(workflow: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Convert a workflow to API format.

    As in the editor, values belong to widgets by their place, and widgets without a value keep their defaults.
    """
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in real_nodes(workflow):
        known, values = widgets(definitions[node["type"]]), node["widgets_values"]
        if len(values) > len(known):
            raise ValueError(f"{node['type']} has {len(known)} widgets and the workflow {len(values)} values: {values}")
        inputs = {name: default for name, default in known if name}
        inputs |= {name: value for (name, _), value in zip(known, values, strict=False) if name}
        inputs |= {each["name"]: origins[each["link"]] for each in node["inputs"] if each["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def ids_of(prompt: dict[str, Any], kind: str) -> list[str]:
    """Return the ids of the nodes of a type, in the workflow's order."""
    return [number for number, node in prompt.items() if node["class_type"] == kind]


def load_if_known(name: str, definitions: dict[str, Any], version: tuple[int, ...]) -> dict[str, Any]:
    """Load a shipped workflow; skips the test on a host that lacks nodes of it.

    `definitions`: all nodes of a host, as its server lists them; `version`: the host's. A host that every workflow is
    made for lacks none, and none of the pack's own may be missing anywhere.
    """
    workflow = load(name)
    missing = sorted({node["type"] for node in real_nodes(workflow)} - set(definitions))
    message = f"ComfyUI {'.'.join(map(str, version))} lacks nodes of {name}: {', '.join(missing)}"
    if missing:
        assert version < MADE_FOR, message
        assert not [kind for kind in missing if kind.startswith("Astraea")], message
        pytest.skip(message)
    return workflow
