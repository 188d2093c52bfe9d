"""The texts in locales/: English is what the nodes say, and every translation is of what English says now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import folder_paths
import pytest
from pack_nodes import pack_nodes
from translations import (
    ENGLISH,
    GROWING,
    LANGUAGES,
    LOCALES,
    SPECIAL,
    Translation,
    english_texts,
    file_contents,
    lost_parts,
    missing,
    read_translation,
    updated,
)

from astraea.host.folders import user_schedule_folder
from astraea.schedules import flow_sigmas, periodic, save

COMMAND = "run `python tests/translations.py`"
PROMISE = {"psnr_db": 40.0, "speedup": 2.0, "seconds": 1.0, "steps": 12, "device": "a card", "sampler": "euler"}


@pytest.fixture
def english(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The nodes' texts for a user without schedules."""
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    return english_texts(pack_nodes())


@pytest.fixture(params=LANGUAGES)
def translation(request: pytest.FixtureRequest) -> Translation:
    return read_translation(request.param)


def test_every_node_and_socket_has_its_texts(english: dict[str, str]) -> None:
    for node_id, node in pack_nodes().items():
        schema = node.define_schema()
        places = [f"inputs.{each.id}" for each in schema.inputs]
        places += [f"outputs.{place}" for place in range(len(schema.outputs))]
        keys = {f"{place}.{part}" for place in places for part in ("name", "tooltip")} | {"display_name", "description"}
        assert {f"{node_id}.{key}" for key in keys} <= set(english)


def test_english_is_what_the_nodes_say(english: dict[str, str]) -> None:
    assert set(read_translation(ENGLISH).texts) == set(english) - GROWING
    file = LOCALES / ENGLISH / "nodeDefs.json"
    assert file.read_text("utf-8") == file_contents(english)[file], COMMAND


def test_the_command_would_change_no_file(english: dict[str, str]) -> None:
    for file, content in file_contents(english).items():
        assert file.read_text("utf-8") == content, f"{file} is out of date: {COMMAND}"


def test_every_text_is_translated(english: dict[str, str], translation: Translation) -> None:
    outdated = [key for key in translation.texts if key not in updated(english, translation).texts]
    assert outdated == [], COMMAND
    assert missing(english, translation) == []
    assert set(translation.texts) == set(english)


def test_translations_keep_numbers_choices_and_names(english: dict[str, str], translation: Translation) -> None:
    current = updated(english, translation).texts
    lost = {key: lost_parts(key, english, current) for key in current}
    assert {key: parts for key, parts in lost.items() if parts} == {}


def test_no_text_has_signs_that_the_editor_reads_as_syntax(english: dict[str, str]) -> None:
    texts = [english, *(read_translation(language).texts for language in (ENGLISH, *LANGUAGES))]
    assert [text for each in texts for text in each.values() if SPECIAL.search(text) or text != text.strip()] == []


def test_texts_that_grow_with_the_user_s_schedules_are_left_to_the_node(english: dict[str, str]) -> None:
    found = periodic("found", [0.0, 0.0, 1.0], flow_sigmas(12))
    save(replace(found, provenance={"promise": PROMISE | {"cfg": 3.0}}), user_schedule_folder())
    grown = english_texts(pack_nodes())
    assert {key for key in english if grown[key] != english[key]} == GROWING
