"""The documents as a site: every link leads somewhere, the index lists all pages, help pages fit a narrow panel and
are translated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
from translations import (
    ENGLISH,
    LANGUAGES,
    english_pages,
    lost_parts,
    missing,
    page_digests,
    read_pages,
    read_translation,
)

from shipped import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
HELP_PAGES = sorted((ROOT / "web" / "docs").glob("*.md"))
TRANSLATED_PAGES = sorted((ROOT / "web" / "docs").glob("*/*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *DOCS,
    *HELP_PAGES,
    *TRANSLATED_PAGES,
]
# Also read outside of the repository, where a relative link leads nowhere.
READ_ELSEWHERE = [ROOT / "README.md", *HELP_PAGES, *TRANSLATED_PAGES]
PICTURES = ROOT / "docs" / "pictures"
REPOSITORY = re.compile(
    r"https://(?:github\.com/comfyui-astraea/ComfyUI-Astraea/(?:blob|tree)"
    r"|raw\.githubusercontent\.com/comfyui-astraea/ComfyUI-Astraea)/main/"
)
FENCED, CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE), re.compile(r"`[^`\n]*`")
INLINE, DEFINED = re.compile(r"\]\(([^)\s]+)\)"), re.compile(r"^\[[^\]]+\]: +(\S+)$", re.MULTILINE)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
HEADING_OR_ITEM, BOLD = re.compile(r"^(#+|[ ]*\*) ", re.MULTILINE), re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
MAX_FIRST_SCREEN, MAX_README = 250, 900
MAX_WORDS = 350
MAX_WORDS_OF = {"AstraeaAccelerate": 500, "AstraeaSearch": 500, "AstraeaSparseAttention": 500}


@dataclass(frozen=True)
class Link:
    """A link from a page to a file or folder of the repository; anchor: of a heading, or ""."""

    page: Path
    target: str

    @property
    def is_relative(self) -> bool:
        return not REPOSITORY.match(self.target) and not self.target.startswith("#")

    @property
    def file(self) -> Path:
        path = unquote(REPOSITORY.sub("", self.target).partition("#")[0])
        if not path:
            return self.page
        return (self.page.parent if self.is_relative else ROOT).joinpath(path).resolve()

    @property
    def anchor(self) -> str:
        return unquote(self.target.partition("#")[2])

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.target}"


def without_code(text: str) -> str:
    return CODE.sub("", FENCED.sub("", text))


def links_of(page: Path) -> Iterator[Link]:
    """The links of a page that lead into the repository."""
    text = without_code(page.read_text("utf-8"))
    for target in (*INLINE.findall(text), *DEFINED.findall(text)):
        if REPOSITORY.match(target) or not re.match(r"[a-z]+:", target):
            yield Link(page, target)


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in HEADING.findall(FENCED.sub("", page.read_text("utf-8"))):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = found[anchor] = found.get(anchor, -1) + 1
        anchors.add(f"{anchor}-{count}" if count else anchor)
    return anchors


def tables_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.lstrip().startswith(("|", "<table"))]


def is_picture(link: Link) -> bool:
    return PICTURES in link.file.parents


LINKS = [link for page in PAGES for link in links_of(page)]


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A [link](b.md), and `code`\n## 01 Start (no download)\n```\n# no heading\n```\n## a-b\n## a-b\n")
    assert anchors_of(page) == {"a-link-and-code", "01-start-no-download", "a-b", "a-b-1"}


def test_links_are_found_in_every_form(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](b.md#c) ![d](e%20f.png) `[no](link.md)` [g](https://example.org)\n\n[h]: ../i\n")
    assert [link.target for link in links_of(page)] == ["b.md#c", "e%20f.png", "../i"]
    assert [link.file.name for link in links_of(page)] == ["b.md", "e f.png", "i"]


def test_every_link_leads_to_a_file() -> None:
    assert [str(link) for link in LINKS if not is_picture(link) and not link.file.exists()] == []


def test_every_picture_of_the_documents_is_there() -> None:
    if not (PICTURES / "nodes").is_dir():
        pytest.skip("the pictures of the editor have not been taken yet")
    assert [str(link) for link in LINKS if is_picture(link) and not link.file.exists()] == []


def test_every_anchor_is_that_of_a_heading() -> None:
    anchored = [link for link in LINKS if link.anchor and link.file.suffix == ".md" and link.file.exists()]
    assert [str(link) for link in anchored if link.anchor not in anchors_of(link.file)] == []


def test_pages_that_are_read_elsewhere_link_to_the_repository() -> None:
    assert [str(link) for link in LINKS if link.page in READ_ELSEWHERE and link.is_relative] == []


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {link.file for link in links_of(index)}
    assert [page.name for page in DOCS if page not in {*listed, index}] == []


@pytest.mark.parametrize("page", HELP_PAGES, ids=lambda page: page.stem)
def test_a_help_page_fits_a_narrow_panel(page: Path) -> None:
    text = page.read_text("utf-8")
    assert tables_of(text) == []
    assert len(text.split()) < MAX_WORDS_OF.get(page.stem, MAX_WORDS)


def test_every_node_has_a_help_page_under_its_display_name() -> None:
    headings = {page.stem: page.read_text("utf-8").partition("\n")[0].removeprefix("# ") for page in HELP_PAGES}
    assert headings == dict(nodes())


def test_help_pages_are_translated_into_the_languages_of_the_nodes() -> None:
    assert {page.stem for page in TRANSLATED_PAGES} == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_help_page_has_a_translation_of_what_it_says_now(language: str) -> None:
    translation = read_pages(language)
    assert set(translation.texts) == set(english_pages())
    assert missing(english_pages(), translation) == []
    assert page_digests(language).items() <= translation.digests.items(), "run `python tests/translations.py`"


@pytest.mark.parametrize("page", TRANSLATED_PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_a_translated_help_page_is_built_like_the_english_one(page: Path) -> None:
    english = page.parent.with_suffix(".md")
    text, original = page.read_text("utf-8"), english.read_text("utf-8")
    assert HEADING_OR_ITEM.findall(text) == HEADING_OR_ITEM.findall(original)
    assert [link.target for link in links_of(page)] == [link.target for link in links_of(english)]
    assert set(CODE.findall(text)) == set(CODE.findall(original))
    assert tables_of(text) == []


@pytest.mark.parametrize("page", TRANSLATED_PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_a_translated_help_page_has_the_names_that_the_editor_shows(page: Path) -> None:
    node, text, original = page.parent.name, page.read_text("utf-8"), english_pages()[f"{page.parent.name}.md"]
    english, shown = read_translation(ENGLISH).texts, read_translation(page.stem).texts
    assert text.startswith(f"# {shown[f'{node}.display_name']}\n")
    sockets = {english[key]: shown[key] for key in english if re.fullmatch(rf"{node}\..*\.name", key)}
    labels = {label for bold in BOLD.findall(original) for label in re.split(r", | … ", bold)}
    assert [label for label in sorted(labels & set(sockets)) if sockets[label] not in text] == []

    lost = lost_parts(node, {**english, node: original}, {**shown, node: text})
    kept = {name for key, name in english.items() if key.endswith(".name")}
    assert [part for part in lost if part not in kept and part.removesuffix("s") not in text] == []  # 's': of LoRAs


def nodes() -> Iterator[tuple[str, str]]:
    """Id and display name of every node."""
    for file in sorted((ROOT / "nodes").glob("*.py")):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(call, ast.Call):
                given = {each.arg: each.value.value for each in call.keywords if isinstance(each.value, ast.Constant)}
                if "node_id" in given:
                    yield str(given["node_id"]), str(given["display_name"])


def test_the_readme_is_short() -> None:
    """Words that are read: neither addresses nor the lines of tables."""
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text("utf-8")))
    read = [[word for word in part.split() if re.search(r"\w", word)] for part in text.split("## Your model")]
    assert len(read[0]) <= MAX_FIRST_SCREEN
    assert sum(map(len, read)) <= MAX_README
