"""Draws docs/*.svg from the result files: `python benchmarks/plots.py`. Needs matplotlib; nothing is measured.

Loss against time and against cost for the main quality tables, changes of tokens, the training curves.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from lib.quality.derived import ahead_of, bundled_rows, families
from lib.quality.settings import MAIN_TABLES
from lib.quality.tables import quality_result
from lib.results import RESULTS, ROOT

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

DOCS = ROOT / "docs"
# Families in colour; every other one is a grey dot.
COLOURS = {
    "bundled": "#d62728",
    "EasyCache": "#1f77b4",
    "LazyCache": "#17becf",
    "whole steps, hold": "#bcbd22",
    "whole steps, linear forecast": "#2ca02c",
    "uniform, paper": "#9467bd",
    "uniform, scaled refit": "#ff7f0e",
    "uniform, forecast": "#8c564b",
}
BED_COLOURS = {"easy": "#1f77b4", "hard": "#d62728", "real": "#2ca02c"}
matplotlib.rcParams.update({"svg.hashsalt": "astraea", "svg.fonttype": "path", "font.size": 9, "axes.grid": True})
matplotlib.rcParams.update({"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})


def save(figure: Any, name: str) -> None:
    DOCS.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(DOCS / name, metadata={"Date": None})
    plt.close(figure)
    print(f"docs/{name}")


def pareto(axes: Axes, rows: Sequence[dict[str, Any]], across: str) -> None:
    """PSNR over the speed-up that was measured ("time") or that the cost model gives at the size of Wan 2.1 1.3B.

    A control of fewer pairs is placed by its distance to the bundled schedule on the pairs it has.
    """
    shipped = {row["budget"]: row for row in bundled_rows(rows)}

    def point(row: dict[str, Any]) -> tuple[float, float]:
        speed = row["speedup"]["total"] if across == "time" else 1.0 / row["cost"]["1.3B"]
        bundled = shipped.get(row["budget"])
        return speed, row["psnr"]["mean"] if bundled is None else bundled["psnr"]["mean"] + ahead_of(row, bundled)

    for family, members in families(rows).items():
        x, y = zip(*sorted(point(row) for row in members), strict=True)
        if family in COLOURS:
            width = 2.0 if family == "bundled" else 1.0
            axes.plot(x, y, "o-", color=COLOURS[family], label=family, linewidth=width, markersize=3 + width / 2)
        else:
            axes.plot(x, y, ".", color="0.6", markersize=4, zorder=1)
    axes.set_xlabel("speed-up, measured" if across == "time" else "speed-up by the cost model, Wan 2.1 1.3B, 480p")
    axes.set_ylabel("PSNR against dense, dB")
    axes.set_ylim(bottom=15)


def draw_pareto(name: str, result: dict[str, Any]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), sharey=True)
    pareto(left, result["rows"], "time")
    pareto(right, result["rows"], "cost")
    right.set_ylabel("")
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    settings = result["settings"]
    figure.suptitle(
        f"{settings['testbed']} clips, {settings['sampler']}, {settings['steps']} steps, guidance {settings['cfg']:g}"
    )
    save(figure, f"pareto-{name}.svg")


def draw_token_change() -> None:
    path = RESULTS / "token_change.json"
    if not path.exists():
        return
    beds = json.loads(path.read_text("utf-8"))["testbeds"]
    figure, grid = plt.subplots(1, 3, figsize=(12, 3.4))
    key = "squared change in the most changed tokens"
    for what, axes in zip(("input", "prediction"), grid[:2], strict=True):
        for bed, colour in ((bed, BED_COLOURS[bed]) for bed in beds):
            for share, style in (("0.1", ":"), ("0.3", "-"), ("0.5", "--")):
                values = [step[key][share] for step in beds[bed][what]]
                label = f"{bed}, top {float(share):.0%}"
                axes.plot(range(1, len(values) + 1), values, style, color=colour, label=label)
        axes.set_title(f"{what}: share of the squared change")
        axes.set_xlabel("step")
        axes.set_ylim(0, 1)
    grid[0].legend(fontsize=7)
    for bed, colour in ((bed, BED_COLOURS[bed]) for bed in beds):
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
    figure, pair = plt.subplots(1, 2, figsize=(9, 3.2))
    for axes, (title, name) in zip(pair, (("easy", "loss.csv"), ("hard", "loss_hard.csv")), strict=True):
        steps, training, validation = zip(*read_curve(ROOT / "tiny" / name), strict=True)
        axes.semilogy(steps, training, label="training", color="0.6")
        axes.semilogy(steps, validation, label="clips never trained on", color="#d62728")
        axes.set_title(title)
        axes.set_xlabel("training step")
        axes.legend(fontsize=7)
    save(figure, "loss-curves.svg")


def main() -> None:
    for name in MAIN_TABLES:
        draw_pareto(name, quality_result(name))
    draw_token_change()
    draw_curves()


if __name__ == "__main__":
    main()
