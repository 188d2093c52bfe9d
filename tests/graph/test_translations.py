"""ComfyUI hands the editor the nodes' texts and help pages in every language of locales/."""

from __future__ import annotations

import json
from typing import Any

import pytest
from server import PACK_FOLDER, ComfyServer
from translations import ENGLISH, LANGUAGES, LOCALES, read_pages


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


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("folder", [PACK_FOLDER, PACK_FOLDER.partition(".")[0]])
def test_every_help_page_is_where_the_editor_asks_for_it(server: ComfyServer, language: str, folder: str) -> None:
    """Newer editors cut the folder's name at its first dot."""
    pages = read_pages(language).texts
    assert "AstraeaAccelerate.md" in pages
    for name, text in pages.items():
        address = f"/extensions/{folder}/docs/{name.removesuffix('.md')}/{language}.md"
        assert server.get(address).decode() == text, address
