"""Writes docs/support.md from what the tests saw: every model on every ComfyUI.

`python tests/support.py`. The files in tests/host/outcomes are written by the host tier: see test_every_model.py.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTCOMES, DOCUMENT = ROOT / "tests" / "host" / "outcomes", ROOT / "docs" / "support.md"
WORDS = {"token": "tokens", "whole": "steps", "full": "full", "absent": "–"}
KINDS = {"video": "Video", "image": "Images", "audio": "Sound", "3d": "3D"}
HEAD = """# Which models are accelerated, and how

Written from what the tests saw: small models of each kind with random weights, built by ComfyUI's own classes, sampled
at half the budget, and at the full budget, where each is the same to the bit. `python tests/support.py` writes it anew.

* **tokens**: whole steps are skipped, and steps that compute a part of the video's tokens are possible.
* **steps**: whole steps are skipped. `auto` does that and no more, so nothing is missing unless you choose token steps,
  or a schedule that has them; the reason below is also in the report of a run.
* **full**: every step is computed, for the reason below.
* **–**: this ComfyUI has no such model.

A model that is not listed, and a newer one, takes whole steps. The gain depends on the run: with eight steps or fewer,
as distilled models are sampled, it is little; with three or fewer nothing is skipped.
"""


def read_outcomes() -> dict[str, dict[str, dict[str, str]]]:
    """`{host version: {model: outcome}}`, the oldest version first."""
    files = {path.stem: json.loads(path.read_text("utf-8")) for path in OUTCOMES.glob("*.json")}
    return dict(sorted(files.items(), key=lambda item: newness(item[1])))


def newness(outcomes: dict[str, dict[str, str]]) -> int:
    """ComfyUI's version numbers do not rise with time; the number of its models does."""
    return sum(each["steps"] != "absent" for each in outcomes.values())


def document(outcomes: dict[str, dict[str, dict[str, str]]]) -> str:
    """The text of docs/support.md."""
    lines, newest = [HEAD], list(outcomes.values())[-1]
    present = [each for each in newest.values() if each["steps"] != "absent"]
    counted = {word: sum(each["steps"] == word for each in present) for word in WORDS}
    lines.append(
        f"On ComfyUI {list(outcomes)[-1]}: {len(present)} models, {counted['token']} with token steps, "
        f"{counted['whole']} with whole steps, {counted['full']} in full.\n"
    )
    for kind, title in KINDS.items():
        names = sorted(name for name, each in newest.items() if each["kind"] == kind)
        lines += [
            f"## {title}\n",
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
    DOCUMENT.write_text(document(read_outcomes()), "utf-8")
