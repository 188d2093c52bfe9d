"""Draws docs/*.svg from the result files: `python benchmarks/plots.py`. Needs matplotlib; nothing is measured.

Changes of tokens, the training curves of the test models.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
from lib.results import RESULTS, ROOT

matplotlib.use("svg")
from matplotlib import pyplot as plt

DOCS = ROOT / "docs"
STUDENTS = tuple(f"{kind}_{name}" for kind in ("easy", "hard") for name in ("guidance", "steps", "high", "low"))
matplotlib.rcParams.update({"svg.hashsalt": "astraea", "svg.fonttype": "path", "font.size": 9, "axes.grid": True})
matplotlib.rcParams.update({"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})


def save(figure: Any, name: str) -> None:
    DOCS.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(DOCS / name, metadata={"Date": None})
    plt.close(figure)
    print(f"docs/{name}")


def draw_token_change() -> None:
    path = RESULTS / "token_change.json"
    if not path.exists():
        return
    beds = json.loads(path.read_text("utf-8"))["testbeds"]
    figure, grid = plt.subplots(1, 3, figsize=(12, 3.4))
    key = "squared change in the most changed tokens"
    for what, axes in zip(("input", "prediction"), grid[:2], strict=True):
        for bed, colour in zip(beds, ("#1f77b4", "#d62728", "#2ca02c"), strict=False):
            for share, style in (("0.1", ":"), ("0.3", "-"), ("0.5", "--")):
                values = [step[key][share] for step in beds[bed][what]]
                label = f"{bed}, top {float(share):.0%}"
                axes.plot(range(1, len(values) + 1), values, style, color=colour, label=label)
        axes.set_title(f"{what}: share of the squared change")
        axes.set_xlabel("step")
        axes.set_ylim(0, 1)
    grid[0].legend(fontsize=7)
    for bed, colour in zip(beds, ("#1f77b4", "#d62728", "#2ca02c"), strict=False):
        for what, style in (("input", "-"), ("prediction", "--")):
            values = [step["most changed tokens that were so before"] for step in beds[bed][what][1:]]
            grid[2].plot(range(2, len(values) + 2), values, style, color=colour, label=f"{bed}, {what}")
    grid[2].set_title("top 30 % that were so a step before")
    grid[2].set_xlabel("step")
    grid[2].set_ylim(0, 1)
    grid[2].legend(fontsize=7)
    save(figure, "token-change.svg")


def read_curve(path: Path) -> Iterable[tuple[int, float, float]]:
    with path.open(newline="") as file:
        return [(int(row[0]), float(row[1]), float(row[2])) for row in list(csv.reader(file))[1:]]


def draw_curves() -> None:
    curves = {
        "easy": ("loss.csv", "training step"),
        "hard": ("loss_hard.csv", "training step"),
        "real": ("loss_real.csv", "training step"),
        **{name: (f"students/{name}.csv", "round") for name in STUDENTS},
    }
    figure, grid = plt.subplots(2, 6, figsize=(18, 5.4))
    for axes, (title, (name, unit)) in zip(grid.flat, curves.items(), strict=False):
        steps, training, validation = zip(*read_curve(ROOT / "tiny" / name), strict=True)
        axes.semilogy(steps, training, label="training", color="0.6")
        axes.semilogy(steps, validation, label="not trained on", color="#d62728")
        axes.set_title(title.replace("_", ", "))
        axes.set_xlabel(unit)
        axes.legend(fontsize=7)
    save(figure, "loss-curves.svg")


def main() -> None:
    draw_token_change()
    draw_curves()


if __name__ == "__main__":
    main()
