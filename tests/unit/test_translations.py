"""The command that writes locales/: which translations stay, and what a translation must keep."""

from __future__ import annotations

from pathlib import Path

import pytest
import translations
from translations import LANGUAGES, Translation, lost_parts, missing, updated

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


@pytest.fixture
def help_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a help page and its translations, as the command recorded them."""
    for name, path in (("LOCALES", "locales"), ("RECORD", "locales/translated.json"), ("HELP_PAGES", "docs")):
        monkeypatch.setattr(translations, name, tmp_path / path)
    pages = tmp_path / "docs"
    (pages / "Node").mkdir(parents=True)
    (pages / "Node.md").write_text("# Blur\n", "utf-8")
    for language in LANGUAGES:
        (pages / "Node" / f"{language}.md").write_text("# 模糊\n", "utf-8")
    translations.write({})
    return pages


def outdated_pages(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The pages that the command names."""
    capsys.readouterr()
    translations.write({})
    return [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines() if "Node.md" in line]


def test_a_help_page_is_named_from_a_change_of_the_english_one_until_its_own(
    help_pages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outdated_pages(capsys) == []
    (help_pages / "Node.md").write_text("# Blur\n\nMakes 2 pictures.\n", "utf-8")
    assert outdated_pages(capsys) == outdated_pages(capsys) == ["docs/Node/ja.md", "docs/Node/zh.md"]
    (help_pages / "Node" / "zh.md").write_text("# 模糊\n\n生成 2 张图片。\n", "utf-8")
    assert outdated_pages(capsys) == ["docs/Node/ja.md"]


def test_a_help_page_without_a_translation_is_named(help_pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (help_pages / "Node" / "zh.md").unlink()
    assert outdated_pages(capsys) == ["docs/Node/zh.md"]


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
