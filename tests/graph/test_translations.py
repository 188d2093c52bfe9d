"""ComfyUI hands the editor the nodes' texts in every language of locales/."""

from __future__ import annotations

import json
from typing import Any

import pytest
from server import ComfyServer
from translations import ENGLISH, LANGUAGES, LOCALES


@pytest.fixture(scope="module")
def languages(server: ComfyServer) -> dict[str, Any]:
    return server.get_json("/i18n")


def test_the_languages_are_those_of_the_pack(languages: dict[str, Any]) -> None:
    assert set(languages) == {ENGLISH, *LANGUAGES}


@pytest.mark.parametrize("language", [ENGLISH, *LANGUAGES])
def test_every_text_arrives(languages: dict[str, Any], definitions: dict[str, Any], language: str) -> None:
    texts = languages[language]["nodeDefs"]
    assert texts == json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))
    assert set(texts) == {name for name in definitions if name.startswith("Astraea")}


def test_english_texts_are_those_of_the_definitions(languages: dict[str, Any], definitions: dict[str, Any]) -> None:
    """The editor finds a text by the node's id, an input's name and an output's place."""
    for name, texts in languages[ENGLISH]["nodeDefs"].items():
        definition = definitions[name]
        assert texts["display_name"] == definition["display_name"]
        assert texts["description"] == definition["description"]
        inputs = {
            key: spec for kind in ("required", "optional") for key, spec in definition["input"].get(kind, {}).items()
        }
        assert set(texts.get("inputs", {})) == set(inputs)
        for key, each in texts.get("inputs", {}).items():
            assert each.get("tooltip", inputs[key][1]["tooltip"]) == inputs[key][1]["tooltip"]
        for place, each in texts.get("outputs", {}).items():
            assert each["name"] == definition["output_name"][int(place)]
            assert each["tooltip"] == definition["output_tooltips"][int(place)]
