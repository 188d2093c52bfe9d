"""Digests of a run of `sampling.py`: its latents, report, saved schedules and record of a search.

Facts are found by entries of saved files and attributes of reports, not by the classes that hold them.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COMPARED = {"latents": "latents", "steps": "computed steps", "schedules": "found schedules"}
SAVED_DECISIONS = ("points", "forecast", "mode", "family")  # of a schedule file; figures and dates stay out
MAX_DEPTH = 6  # of objects within the report output


@dataclass(frozen=True)
class Digests:
    """SHA-256 of a run's final latents and of what its steps computed; "" where the report has no such facts.

    computed_share: computed tokens over all tokens; schedules: SHA-256 of what a search saved; failure: the exception
    that ended the run. All of them are the same on every repetition.
    """

    latents: str = ""
    steps: str = ""
    computed_share: float | None = None
    schedules: str = ""
    failure: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields that hold something."""
        return {name: value for name, value in asdict(self).items() if value not in ("", None)}


def verdict(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Compare two `Digests.as_dict` of a run: "same", or what differs.

    Latents must be there. Other facts that only one side has are not compared: a class or attribute was renamed.
    """
    if failure := before.get("failure") or after.get("failure"):
        return f"FAILS ({failure})"
    if not (before.get("latents") and after.get("latents")):
        return "MISSING"
    both = [key for key in COMPARED if before.get(key) and after.get(key)]
    differing = [COMPARED[key] for key in both if before[key] != after[key]]
    return f"DIFFERS: {', '.join(differing)}" if differing else "same"


def sha256(content: bytes | str) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def digests_of(latents: Any, reports: list[Any]) -> Digests:
    """Digests of final latents `[B, C, T, H, W]` and of the report outputs."""
    import torch

    plain = latents.detach().cpu().contiguous()
    if not torch.isfinite(plain).all():
        return Digests(failure="the latents are not finite")
    head = f"{tuple(plain.shape)} {plain.dtype} ".encode()
    calls = [call for report in reports for call in computed_by_call(report)]
    tokens = sum(all_of for _, all_of in calls)
    return Digests(
        latents=sha256(head + plain.view(torch.uint8).numpy().tobytes()),
        steps=sha256(repr(calls)) if calls else "",
        computed_share=round(sum(computed for computed, _ in calls) / tokens, 6) if tokens else None,
    )


def computed_by_call(report: Any, depth: int = 0) -> list[tuple[int, int]]:
    """`(computed, tokens)` of every model call in a report output, in their order; empty where it has no such records.

    Found by these two attributes wherever they lie, as the classes around them may have other names.
    """
    if depth > MAX_DEPTH or report is None:
        return []
    computed, tokens = getattr(report, "computed", None), getattr(report, "tokens", None)
    if isinstance(computed, int) and isinstance(tokens, int):
        return [(computed, tokens)]
    if isinstance(report, Mapping):
        inside = list(report.values())
    elif isinstance(report, (list, tuple, deque)):
        inside = list(report)
    else:
        inside = list(getattr(report, "__dict__", {}).values())
    return [call for each in inside for call in computed_by_call(each, depth + 1)]


def saved_schedules(folder: Path) -> str:
    """Name and decisions of every schedule file below a user folder, as JSON."""
    files = sorted(folder.rglob("schedules/*.json"))
    saved = {path.stem: json.loads(path.read_text("utf-8")) for path in files}
    decisions = {name: {key: data.get(key) for key in SAVED_DECISIONS} for name, data in saved.items()}
    return json.dumps(decisions, sort_keys=True)


def outcomes(folder: Path) -> str:
    """Losses and computed work of all candidate runs of a search, as JSON; "" where none are found."""
    lines = [line for path in sorted(folder.rglob("search/*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    records = [json.loads(line.partition(" ")[2]) for line in lines]  # a checksum comes first
    found = [[record["loss"], record["computed"]] for record in records if {"loss", "computed"} <= set(record)]
    return json.dumps(found) if found else ""
