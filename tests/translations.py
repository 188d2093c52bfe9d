"""Writes locales/, the texts that ComfyUI's editor shows on the nodes: `python tests/translations.py`.

English is what the nodes' schemas say. A translation stays while its English text is the one that it was made from:
locales/translated.json remembers that by digests. Where the English text has changed since and the translation has not,
the translation is taken out, the editor shows English there, and the command prints what is to be translated.
`--comfyui TREE` reads the schemas in another ComfyUI than the first one found; they say the same in all.

Help pages, web/docs/<node id>/<language>.md, are recorded the same way by the file name of the English page. One of an
older English page stays, as most of it still holds: the command names it until it has been changed as well.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hosts import HOW_TO, Host, bootstrap, find_hosts, host_at

LOCALES = Path(__file__).resolve().parents[1] / "locales"
RECORD = LOCALES / "translated.json"
HELP_PAGES = LOCALES.parent / "web" / "docs"
ENGLISH, LANGUAGES = "en", ("ja", "zh")
# ComfyUI shows a text of these files instead of the schema's. The schema adds a line for every saved schedule here: the
# English file leaves it alone, or nobody would see them. A translation is worth more than those lines.
GROWING = frozenset(f"{node}.inputs.schedule.tooltip" for node in ("AstraeaAccelerate", "AstraeaAccelerateRaylight"))
STARTED = "ASTRAEA_TRANSLATIONS_STARTED"

# A translation keeps numbers, names of choices, and names in Latin letters that are no ordinary words.
NUMBER = re.compile(r"\d+(?:\.\d+)?")
CHOICE = re.compile(r"(?<!\w)'([^']+)'(?!\w)")
NAME = re.compile(r"(?<![\w.])[A-Za-z](?:[\w.-]*(?:[A-Z_\d]|\.\w))[\w-]*")
SPECIAL = re.compile(r"[{}@|]")  # the editor reads them as syntax, and older ones fail on it


@dataclass(frozen=True)
class Translation:
    """One language: texts by key, and for each the digests of the English text and of its translation."""

    texts: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def english_texts(nodes: Mapping[str, Any]) -> dict[str, str]:
    """Every text of the nodes' schemas by its key, such as `AstraeaReport.inputs.report.tooltip`."""
    texts: dict[str, str | None] = {}
    for node_id, node in nodes.items():
        schema = node.define_schema()
        texts[f"{node_id}.display_name"] = schema.display_name
        texts[f"{node_id}.description"] = schema.description
        inputs = ((f"inputs.{each.id}", each) for each in schema.inputs)
        outputs = ((f"outputs.{place}", each) for place, each in enumerate(schema.outputs))
        for where, each in (*inputs, *outputs):
            texts[f"{node_id}.{where}.name"] = each.display_name or each.id
            texts[f"{node_id}.{where}.tooltip"] = each.tooltip
    return {key: text for key, text in texts.items() if text}


def updated(english: Mapping[str, str], translation: Translation) -> Translation:
    """The translation without texts whose English has changed, in the order of the English texts."""
    texts = {key: translation.texts[key] for key in english if _is_current(key, english, translation)}
    return Translation(texts, {key: f"{_digest(english[key])} {_digest(text)}" for key, text in texts.items()})


def _is_current(key: str, english: Mapping[str, str], translation: Translation) -> bool:
    """Tell whether a key has a translation of its English text: one that is new, was renewed, or whose text is kept."""
    text = translation.texts.get(key)
    if not text:
        return False
    source, _, own = translation.digests.get(key, "").partition(" ")
    return not source or source == _digest(english[key]) or own != _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def missing(english: Mapping[str, str], translation: Translation) -> list[str]:
    """Keys that have no translation of what English says now."""
    return [key for key in english if key not in updated(english, translation).texts]


def read_translation(language: str) -> Translation:
    """The translation into a language as its file has it; empty if there is none."""
    texts = dict(_flatten(_read(LOCALES / language / "nodeDefs.json")))
    return Translation(texts, _read(RECORD).get(language, {}))


def english_pages() -> dict[str, str]:
    """The English help pages by their file names, such as `AstraeaReport.md`."""
    return {page.name: page.read_text("utf-8") for page in sorted(HELP_PAGES.glob("*.md"))}


def read_pages(language: str) -> Translation:
    """The help pages in a language, by the file names of the English ones."""
    pages = {f"{page.parent.name}.md": page.read_text("utf-8") for page in HELP_PAGES.glob(f"*/{language}.md")}
    return Translation(pages, _read(RECORD).get(language, {}))


def page_digests(language: str) -> dict[str, str]:
    """The digests of the help pages in a language. Those of an outdated page stay as they are."""
    english, translation = english_pages(), read_pages(language)
    known = translation.digests | updated(english, translation).digests
    return {name: known[name] for name in english if name in known.keys() & translation.texts.keys()}


def file_contents(english: Mapping[str, str]) -> dict[Path, str]:
    """The content of every file that this command writes, for these English texts."""
    found = {language: updated(english, read_translation(language)) for language in LANGUAGES}
    shown = {ENGLISH: {key: text for key, text in english.items() if key not in GROWING}}
    shown |= {language: translation.texts for language, translation in found.items()}
    contents = {LOCALES / language / "nodeDefs.json": _as_json(_nest(texts)) for language, texts in shown.items()}
    digests = {language: each.digests | page_digests(language) for language, each in found.items()}
    return contents | {RECORD: _as_json(digests)}


def lost_parts(key: str, english: Mapping[str, str], texts: Mapping[str, str]) -> list[str]:
    """Parts of an English text that its translation must keep and does not. Names of nodes as they are translated."""
    text, translated = english[key], texts[key]
    parts = [*NUMBER.findall(text), *CHOICE.findall(text)]
    if not key.endswith(".name"):
        parts += [part.replace("GPUs", "GPU") for part in NAME.findall(text)]
    nodes = {english[each]: texts[each] for each in english if each.endswith(".display_name") and each in texts}
    parts += [own for name, own in nodes.items() if name in text]
    return [part for part in parts if part not in translated]


def _flatten(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        if isinstance(value, str):
            yield above + name, value
        else:
            yield from _flatten(value, f"{above}{name}.")


def _nest(texts: Mapping[str, str]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for key, text in texts.items():
        *folders, name = key.split(".")
        at = root
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = text
    return root


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def chosen_host(tree: Path | None) -> Host:
    """The host to read the schemas in. Exits with instructions if there is none."""
    if tree is not None:
        tree = tree.expanduser().resolve()
        if not bootstrap.is_comfyui(tree):
            sys.exit(f"{tree} is no ComfyUI folder (no main.py with comfyui_version.py).")
        return host_at(tree)
    try:
        found = find_hosts()
    except ValueError as error:
        sys.exit(str(error))
    if not found:
        sys.exit(f"No ComfyUI was found.\n{HOW_TO}")
    return found[0]


def texts_of_this_pack(tree: Path) -> dict[str, str]:
    """The English texts, read in this process, which is one of the host's Python: without anyone's schedules."""
    sampling = importlib.import_module("same_results.sampling")
    sampling.start_comfyui(tree)
    bootstrap.load_pack()
    return english_texts(sampling.nodes_of(sys.modules[bootstrap.PACK]))


def write(english: Mapping[str, str]) -> None:
    """Write the files, and print which changed and what is to be translated."""
    before = {language: read_translation(language).texts for language in LANGUAGES}
    changed = []
    for path, content in file_contents(english).items():
        if not path.is_file() or path.read_text("utf-8") != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8")
            changed.append(str(path.relative_to(LOCALES.parent)))
    print("\n".join(changed) or "up to date")
    for language, old in before.items():
        for key in missing(english, read_translation(language)):
            print(f"\n{language} lacks {key}\n  English: {english[key]}")
            if key in old:
                print(f"  was:     {old[key]}")
        for name in missing(english_pages(), read_pages(language)):
            page = HELP_PAGES / Path(name).stem / f"{language}.md"
            print(f"\n{language} lacks or has to follow {name}: {page.relative_to(LOCALES.parent)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, metavar="TREE", help="ComfyUI folder (default: the first one found)")
    host = chosen_host(parser.parse_args().comfyui)
    if STARTED not in os.environ:
        environment = os.environ | {STARTED: "1", "PYTHONDONTWRITEBYTECODE": "1"}
        sys.exit(subprocess.call([str(host.python), __file__, "--comfyui", str(host.tree)], env=environment))
    write(texts_of_this_pack(host.tree))


if __name__ == "__main__":
    main()
