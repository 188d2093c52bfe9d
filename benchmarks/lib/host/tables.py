"""Markdown tables of the speed and sampler benchmarks. Standard library only."""

from __future__ import annotations

import math
import statistics
from typing import Any

from ..markdown import heading, ratio, table

KINDS = ("full", "token", "reuse")


def speed_cpu_markdown(result: dict[str, Any]) -> str:
    settings = result["settings"]
    text = heading("Speed on the CPU", result["environment"])
    text += (
        f"{settings['tokens']} tokens, cond and uncond in one call, {settings['steps']} steps, "
        f"{settings['pairs']} runs. Token steps: a dense call over a token call on the same input, next to each other. "
        "Whole steps: run against run.\n"
    )
    for subject in result["subjects"]:
        header = ["", "speed-up (min…max)", "ideal", "share of the ideal"]
        lines = [[r["name"], ratio(r["speedup"]), r["ideal"], f"{r['share_of_ideal']:.1%}"] for r in subject["rows"]]
        text += f"\n## {subject['label'].capitalize()}\n\n" + table(header, lines)
        if "profile" in subject:
            text += "\n" + profile_table(subject["profile"])
    return text


def speed_models_markdown(result: dict[str, Any]) -> str:
    """Models by row: dense over token time of a call, and what counting multiplications allows."""
    settings = result["settings"]
    text = heading("Token steps of models with an adapter", result["environment"])
    text += (
        f"Small models with random weights of ComfyUI's own classes, {settings['pairs']} runs of {settings['steps']} "
        f"steps at budget {settings['budget']}: the first step is full, so the others compute a smaller share of "
        "tokens, on average the one below. A dense call over a token call on the same input, next to each other. "
        "Others: tokens of text, sound and references, always computed.\n\n"
    )
    header = ["model", "video tokens", "others", "computed", "dense step, s", "speed-up (min…max)", "ideal"]
    lines = [
        [
            row["model"],
            str(row["tokens"]),
            str(row["others"]),
            f"{row['share']:.1%}",
            f"{row['dense_seconds']['median']:.2f}",
            ratio(row["speedup"]),
            row["ideal"],
            f"{row['share_of_ideal']:.0%}",
        ]
        for row in result["rows"]
    ]
    return text + table([*header, "share of the ideal"], lines)


def profile_table(profile: dict[str, Any]) -> str:
    """Phases by row, kinds of step by column; shares of a dense step."""
    kinds = [kind for kind in profile if isinstance(profile[kind], dict)]
    phases = sorted({phase for kind in kinds for phase in profile[kind]})
    lines = [[p, *(f"{profile[k][p]:.2%}" if p in profile[k] else None for k in kinds)] for p in phases]
    return table(["share of a dense step", *kinds], lines)


def speed_gpu_markdown(result: dict[str, Any]) -> str:
    text = heading("Speed at real size", result["environment"])
    text += f"{result['model']}; cond and uncond computed. One run each, dense before and after them.\n"
    for clip in result["clips"]:
        size = f"latents {clip['latents']}, {clip['tokens']} tokens, {clip['steps']} steps"
        text += f"\n## {clip['frames']} frames: {size}\n\n"
        header = ["", "run, s", "speed-up", "ideal", "full step, s", "token step, s", "skipped step, s"]
        header += ["tokens computed", "peak memory, GiB", "cache, GiB"]
        text += table(header, [_speed_gpu_cells(row) for row in clip["rows"]])
        if clip.get("choosing_seconds"):
            text += f"\nChoosing attention kernels took {clip['choosing_seconds']:.1f} s before; no run pays for it.\n"
        if "left_out" in clip:
            text += f"\n{clip['left_out'].capitalize()}.\n"
        if "profile" in clip:
            text += "\n" + profile_table(clip["profile"])
    return text


def _speed_gpu_cells(row: dict[str, Any]) -> list[Any]:
    share = f"{row['computed_share']:.1%}" if "computed_share" in row else None
    steps = [f"{row['step_seconds'][kind]:.3f}" if kind in row["step_seconds"] else None for kind in KINDS]
    ends = [share, row["peak_gib"], row.get("cache_gib")]
    return [row["name"], row["run_seconds"], row["speedup"], row.get("ideal_speedup"), *steps, *ends]


def real_size(clips: list[dict[str, Any]]) -> str:
    """Seconds, speed-ups and memory of `speed_gpu.py` by clip; what was kept is on top of the dense run's memory."""
    ways = (
        ("whole steps", "0.5", "bundled 0.5"),
        ("whole steps", "0.3", "bundled 0.3"),
        ("token steps", "0.5", "uniform 0.5"),
        ("token steps", "0.3", "uniform 0.3"),
    )
    lines = []
    for clip in sorted(clips, key=lambda each: -each["frames"]):
        rows = {row["name"]: row for row in clip["rows"]}
        dense = rows["dense"]["run_seconds"]
        title = f"{clip['frames']} frames, {clip['steps']} steps"
        lines.append([title, "everything", "1", f"{dense:.1f} s", None, None, None])
        for what, budget, name in ways:
            row = rows[name]
            share = f"{row['speedup'] / row['ideal_speedup']:.0%}"
            lines.append([
                title, what, budget, f"{row['run_seconds']:.1f} s", f"{row['speedup']:.2f}×", share,
                f"{row['peak_gib'] - rows['dense']['peak_gib']:.2f} GiB",
            ])  # fmt: skip
    return table(["clip", "computed", "budget", "time", "speed-up", "of the ideal", "more memory"], lines)


def samplers_markdown(result: dict[str, Any]) -> str:
    """Samplers by row: PSNR of the default and of held steps, by guidance."""
    settings = result["settings"]
    text = heading("Every sampler of the host", result["environment"])
    text += (
        f"{settings['steps']} steps, scheduler {settings['scheduler']}, budget {settings['budget']}, embedded model; "
        "means over the seeds of PSNR in dB against the dense run. Hold: whole steps that keep the newest prediction, "
        "as many of them. Ahead: the mean of default over hold with its standard error; 0 where they are the same. "
        "Samplers that add noise differ by 10 dB from seed to seed: those behind anywhere were given more of them.\n"
    )
    lines = []
    for row in result["rows"]:
        default, hold = (statistics.fmean(row[mode]["psnr"]) for mode in ("default", "hold"))
        why = "; ".join(note for note in row["default"]["notes"] if "into the budget" not in note)
        ahead = [one - other for one, other in zip(row["default"]["psnr"], row["hold"]["psnr"], strict=True)]
        error = statistics.stdev(ahead) / math.sqrt(len(ahead)) if len(ahead) > 1 else math.nan
        difference = f"{row['ahead']:+.1f} ± {error:.1f}" if any(ahead) else "0"
        figures = [f"{default:.1f}", f"{hold:.1f}", difference, f"{row['default']['computed']:.3f}"]
        lines.append([row["sampler"], f"{row['cfg']:g}", str(len(row["hold"]["psnr"])), *figures, why])
    return text + "\n" + table(["sampler", "cfg", "seeds", "default", "hold", "ahead", "computed", "notes"], lines)
