"""The command that writes locales/: which translations stay, and what a translation must keep."""

from __future__ import annotations

import pytest
from translations import Translation, lost_parts, missing, updated

KEY = "Node.description"
ENGLISH = {"Node.display_name": "Blur", KEY: "Makes 2 pictures."}


def made_from(english: dict[str, str], texts: dict[str, str]) -> Translation:
    """A translation of these English texts, as the command records it."""
    return updated(english, Translation(texts))


TRANSLATED = made_from(ENGLISH, {"Node.display_name": "模糊", KEY: "生成 2 张图片。"})


def test_a_translation_stays_while_its_english_text_does() -> None:
    assert updated(ENGLISH, TRANSLATED) == TRANSLATED
    assert missing(ENGLISH, TRANSLATED) == []


def test_a_translation_goes_when_its_english_text_changes() -> None:
    changed = {**ENGLISH, KEY: "Makes 3 pictures."}
    assert updated(changed, TRANSLATED).texts == {"Node.display_name": "模糊"}
    assert missing(changed, TRANSLATED) == [KEY]


def test_a_translation_that_was_renewed_as_well_stays() -> None:
    changed = {**ENGLISH, KEY: "Makes 3 pictures."}
    renewed = Translation({**TRANSLATED.texts, KEY: "生成 3 张图片。"}, TRANSLATED.digests)
    assert missing(changed, renewed) == []
    assert missing({**changed, KEY: "Makes 4 pictures."}, updated(changed, renewed)) == [KEY]


def test_a_text_that_no_node_has_any_more_goes() -> None:
    assert updated({KEY: ENGLISH[KEY]}, TRANSLATED).texts == {KEY: "生成 2 张图片。"}


@pytest.mark.parametrize("text", ["", None])
def test_an_empty_translation_is_none(text: str | None) -> None:
    texts = {"Node.display_name": "模糊"} | ({} if text is None else {KEY: text})
    assert missing(ENGLISH, Translation(texts)) == [KEY]


@pytest.mark.parametrize(
    ("english", "translated", "lost"),
    [
        ("0.4 is up to 2.5x as fast.", "0.4 最高 25 倍。", ["2.5"]),
        ("'auto' takes the best of the node's ways.", "“自动”取最好的方式。", ["auto"]),
        ("'auto' takes the best.", "“auto”取最好的方式。", []),
        ("Any of '.', '_' and '-'.", "“.”、“_”。", ["-"]),
        ("For MiniMax-H3 in ComfyUI, fp8-host.", "用于 ComfyUI 的 MiniMax-H3。", ["8", "fp8-host"]),
        ("Nodes of torch.compile.", "编译节点。", ["torch.compile"]),
        ("After the node Blur.", "在 Blur 之后。", ["模糊"]),
        ("After the node Blur.", "在“模糊”之后。", []),
    ],
)
def test_a_translation_keeps_numbers_choices_and_names(english: str, translated: str, lost: list[str]) -> None:
    texts = {"Node.display_name": "模糊", KEY: translated}
    assert lost_parts(KEY, {**ENGLISH, KEY: english}, texts) == lost
