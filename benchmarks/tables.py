"""Markdown tables from result files; `python benchmarks/tables.py` writes them anew from all JSONs.

What follows from rows is derived anew, too. No measurement, no host: standard library only.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import attention_tables
from markdown_table import table
from quality_derived import derive

KINDS = ("full", "token", "reuse")
RESULTS = Path(__file__).resolve().parent / "results"


def heading(title: str, environment: dict[str, Any]) -> str:
    """Title and what was measured with."""
    e = environment
    device = e["gpu"] or f"{e['cpu']}, {e['threads']} threads"
    commands = "".join(f"    {command}\n" for command in e["command"].splitlines())
    return (
        f"# {title}\n\nComfyUI {e['comfyui']}, torch {e['torch']}, Python {e['python']}, {device}; "
        f"commit `{e['commit'][:12]}`, seed {e['seed']}, {e['date']}.\n\n{commands}\n"
    )


def ratio(figures: dict[str, Any]) -> str:
    middle = figures.get("total", figures["median"])
    return f"{middle:.2f} ({figures['min']:.2f}…{figures['max']:.2f})"


def quality_markdown(result: dict[str, Any]) -> str:
    settings = result["settings"]
    text = heading(f"Quality: {settings['table']}", result["environment"])
    for later in result.get("continued", []):
        text += f"At commit `{later['commit'][:12]}`, {later['date']}: {', '.join(later['rows'])}.\n\n"
    text += (
        f"Testbed *{settings['testbed']}*, {settings['sampler']}, {settings['steps']} steps, guidance "
        f"{settings['cfg']:g}, latents {settings['latents']} ({settings['tokens']} tokens), {settings['pairs']} "
        "prompt–seed pairs. PSNR in dB against the dense run; speed-up: wall-clock of all pairs together (of controls: "
        "of the first four), dense over candidate; cost: share of the dense run by the cost model at the size of "
        "Wan 2.1. How to read this: benchmarks/README.md.\n"
    )
    if result["derived"]:
        text += "\n## Bundled schedules against the others, in dB\n\n" + _derived_table(result["derived"])
    return text + "\n## All\n\n" + _quality_table(result["rows"])


DERIVED_COLUMNS = {
    "": "name",
    "PSNR": "psnr",
    "speed-up": "speedup",
    "− EasyCache, same time": "minus_easycache",
    "least…most": "minus_easycache_pairs",
    "how": "easycache_how",
    "− EasyCache, same tokens": "minus_easycache_same_tokens",
    "− LazyCache, same time": "minus_lazycache",
    "temporal PSNR − EasyCache's, same time": "minus_easycache_temporal",
    "− `paper`, same cost": "minus_paper 1.3B",
    "− best control, same cost (1.3B)": "minus_best_control 1.3B",
    "least…most ": "minus_best_control_pairs 1.3B",
    "that control": "best_control 1.3B",
    "− best control, same cost (14B)": "minus_best_control 14B",
    "that one": "best_control 14B",
}


def _derived_table(rows: list[dict[str, Any]]) -> str:
    def cell(value: Any) -> Any:
        return f"{min(value):.1f}…{max(value):.1f}" if isinstance(value, list) else value

    return table(list(DERIVED_COLUMNS), [[cell(row[key]) for key in DERIVED_COLUMNS.values()] for row in rows])


def _quality_table(rows: list[dict[str, Any]]) -> str:
    header = ["", "PSNR", "min…max", "SSIM", "RGB PSNR", "RGB SSIM", "temporal PSNR", "speed-up (min…max)", "tokens"]
    header += ["cost 1.3B", "cost 14B", "pairs"]
    lines = []
    for row in rows:
        extent = f"{row['psnr']['min']:.1f}…{row['psnr']['max']:.1f}"
        shares = [f"{share:.1%}" for share in (row["computed_share"], *row["cost"].values())]
        likeness = [f"{row[name]['mean']:.4f}" for name in ("ssim", "ssim_rgb")]
        line = [row["name"], row["psnr"]["mean"], extent, likeness[0], row["psnr_rgb"]["mean"], likeness[1]]
        lines.append([*line, row["temporal_psnr"]["mean"], ratio(row["speedup"]), *shares, row["pairs"]])
    return table(header, lines)


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


def profile_table(profile: dict[str, Any]) -> str:
    """Phases down, kinds of step across; shares of a dense step."""
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
        header = ["", "run, s", "speed-up", "ideal", "full step, s", "token step, s", "reuse step, s"]
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


def samplers_markdown(result: dict[str, Any]) -> str:
    """Samplers down; PSNR of the default and of steps held, by guidance."""
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


WRITERS = {
    "quality": quality_markdown,
    "samplers": samplers_markdown,
    "speed_cpu": speed_cpu_markdown,
    "speed_gpu": speed_gpu_markdown,
    **attention_tables.WRITERS,
}


def main() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text("utf-8"))
        write = WRITERS.get(result.get("benchmark"))
        if result.get("benchmark") == "quality":
            result["derived"] = derive(result["rows"])
            path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
        if write is not None:
            path.with_suffix(".md").write_text(write(result), "utf-8")
            print(path.with_suffix(".md").name)


if __name__ == "__main__":
    main()
