"""Markdown tables and headings of result files. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers are right-aligned, floats have two decimals, None is a dash."""

    def cell(value: Any) -> str:
        return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def heading(title: str, environment: dict[str, Any]) -> str:
    """The title, and the versions, device, commit and command of the measurement."""
    e = environment
    device = e["gpu"] or f"{e['cpu']}, {e['threads']} threads"
    commands = "".join(f"    {command}\n" for command in e["command"].splitlines())
    return (
        f"# {title}\n\nComfyUI {e['comfyui']}, torch {e['torch']}, Python {e['python']}, {device}; "
        f"commit `{e['commit'][:12]}`, seed {e['seed']}, {e['date']}.\n\n{commands}\n"
    )


def ratio(figures: dict[str, Any]) -> str:
    """The total or median speed-up with minimum and maximum."""
    middle = figures.get("total", figures["median"])
    return f"{middle:.2f} ({figures['min']:.2f}…{figures['max']:.2f})"
