"""Tables of the README: where to start with a model and what to expect, and how far ahead that is. Standard library."""

from __future__ import annotations

import statistics
from typing import Any

from ..markdown import table
from .compare import compared
from .settings import LISTED, SETTINGS, Setting
from .tables import HOST, in_order

Row = dict[str, Any]
# Settings of LISTED with the steps that are computed there, the name of their line, and the budget to start with.
STARTS = (
    ({"h3": 10}, "MiniMax-H3, 20 steps", "0.5"),
    ({"wan-2.2": 10}, "Wan 2.2 14B, 20 steps", "0.5 in both nodes"),
    ({"wan-2.1": 21, "hunyuan": 14, "wan-5b": 14}, "Wan 2.1, HunyuanVideo 1.5, Wan 2.2 5B", "0.7"),
    ({"ltx": 5, "ltx-ancestral": 5}, "LTX-2.3, LTX-2.5, 8 steps", "0.65, first pass"),
    ({"h3-turbo": 5}, "H3 turbo, 8 steps", "0.65"),
    ({"scail": 4, "four": 3}, "4 or 6 steps, one sampler", "0.5"),
)
SMALL, UNTRIED = "small models only", "small random models only"


def your_model(rows: list[Row]) -> str:
    """Table of the budget to start with and of the result to expect, by model."""
    header = ["your model", "budget to start with", "steps computed", "sampling, up to", "dB", "how sure"]
    lines = []
    for calls, title, start in STARTS:
        own = [(SETTINGS[name], made) for name, made in calls.items()]
        computed = dict.fromkeys(f"{made} of {setting.steps}" for setting, made in own)
        speeds = sorted(setting.steps / made for setting, made in own)
        decibels = sorted(_mean(rows, setting, made, "psnr") for setting, made in own)
        lines.append([
            title, start, ", ".join(computed), _span([f"{speed:.1f}×" for speed in speeds]),
            _span([f"{each:.0f}" for each in decibels]), SMALL,
        ])  # fmt: skip
    lines.append(["others that ComfyUI samples", "0.7", "7 of 10", "1.4×", "not measured", UNTRIED])
    return table(header, lines)


def caption(result: Row) -> str:
    """The caption of the README's picture."""
    seconds, url = result["median"], "https://github.com/comfyui-astraea/ComfyUI-Astraea/blob/main/benchmarks/results"
    facts = f"{result['computed']} of {result['steps']} steps computed, {result['psnr']:.0f} dB"
    return (
        f"*Left the original, {seconds['original']:.1f} s of sampling; right the same seed with Astraea, "
        f"{seconds['accelerated']:.1f} s ({facts}): the\ndemo model that comes with it, on a CPU\n"
        f"([result]({url}/side_by_side-{HOST}.json), `python benchmarks/side_by_side.py`).*\n"
    )


def lead_means(rows: list[Row]) -> str:
    """Mean lead of `auto` over what else one could do, at budget 0.5, in dB."""
    header = ["20 steps and more", "8 steps", "4 and 6 steps"]
    groups: list[list[Setting]] = [[], [], []]
    for setting in LISTED:
        if setting.share != "–" or setting.steps < 20:
            groups[0 if setting.steps >= 20 else 1 if setting.steps == 8 else 2].append(setting)
    lines = []
    for key, name in (("easycache", "ComfyUI's EasyCache"), ("fewer", "as few dense steps"), ("paper", "mode *paper*")):
        means = [statistics.fmean(_mean(rows, setting, setting.usual, key) for setting in group) for group in groups]
        lines.append([f"ahead of {name}", *(f"{mean:+.0f}" for mean in means)])
    return table(["", *header], lines)


def _mean(rows: list[Row], setting: Setting, calls: int, key: str) -> float:
    own = [compared(row, calls)[key] for row in in_order(rows) if row["setting"] == setting.name]
    return statistics.fmean(each for each in own if each is not None)


def _span(values: list[str]) -> str:
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
