"""Writes the tables of docs/models.md from what the tests saw: every model on every ComfyUI.

`python tests/support.py`. The files in tests/host/outcomes are written by the host tier: see test_every_model.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTCOMES, DOCUMENT = ROOT / "tests" / "host" / "outcomes", ROOT / "docs" / "models.md"
BLOCK = re.compile(r"(<!-- models -->\n).*?(<!-- end of models -->)", re.DOTALL)
WORDS = {"token": "tokens", "whole": "steps", "full": "full", "absent": "–"}
KINDS = {"video": "Video", "image": "Images", "audio": "Sound", "3d": "3D"}


def read_outcomes() -> dict[str, dict[str, dict[str, str]]]:
    """`{host version: {model: outcome}}`, the oldest version first."""
    files = {path.stem: json.loads(path.read_text("utf-8")) for path in OUTCOMES.glob("*.json")}
    return dict(sorted(files.items(), key=lambda item: newness(item[1])))


def newness(outcomes: dict[str, dict[str, str]]) -> int:
    """ComfyUI's version numbers do not rise with time; the number of its models does."""
    return sum(each["steps"] != "absent" for each in outcomes.values())


def filled(text: str, outcomes: dict[str, dict[str, dict[str, str]]]) -> str:
    """The text with its block of models written anew."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{tables(outcomes)}\n{match[2]}", text)


def tables(outcomes: dict[str, dict[str, dict[str, str]]]) -> str:
    """Text of the tables: counts, then a table for each kind of model."""
    newest = list(outcomes.values())[-1]
    present = [each for each in newest.values() if each["steps"] != "absent"]
    counted = {word: sum(each["steps"] == word for each in present) for word in WORDS}
    lines = [
        f"On ComfyUI {list(outcomes)[-1]}: {len(present)} models, {counted['token']} with token steps, "
        f"{counted['whole']} with whole steps, {counted['full']} in full.\n"
    ]
    for kind, title in KINDS.items():
        names = sorted(name for name, each in newest.items() if each["kind"] == kind)
        lines += [
            f"### {title}\n",
            f"| model | {' | '.join(outcomes)} | why not more |",
            "|---" * (len(outcomes) + 2) + "|",
        ]
        for name in names:
            found = [each.get(name, {"steps": "absent", "why": ""}) for each in outcomes.values()]
            why = next((each["why"] for each in reversed(found) if each["why"]), "")
            lines.append(f"| {name} | {' | '.join(WORDS[each['steps']] for each in found)} | {why} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text("utf-8"), read_outcomes()), "utf-8")
