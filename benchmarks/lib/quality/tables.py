"""Markdown tables of `quality.py`. Standard library only."""

from __future__ import annotations

from typing import Any

from ..markdown import heading, ratio, table
from ..results import RESULTS, read_json

HOST = "0.3.64"  # of the figures in README and docs


def quality_result(name: str) -> dict[str, Any]:
    """The result of a table. Raises FileNotFoundError if it was not measured."""
    result = read_json(RESULTS / f"quality-{name}-{HOST}.json")
    if result is None:
        raise FileNotFoundError(f"results/quality-{name}-{HOST}.json")
    return result


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
