"""Quality against calls and time at the settings that people run, on the test models, in the real ComfyUI.

python benchmarks/quality.py [--setting h3 ltx …] [--models easy "hard steps" …] [--comfyui TREE]

`auto` beside EasyCache, the paper's mode, tokens and steps spent evenly, fewer dense steps. One JSON; a row is saved
when it is done, and the same command goes on with the next: about two hours on two cores.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.quality.settings import LISTED, SETTINGS, Setting
from lib.quality.tables import quality_markdown
from lib.results import change_json, read_json, spread


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="only these; see settings.py")
    parser.add_argument("--pairs", type=int, help="prompt–seed pairs; fewer for a trial")
    parser.add_argument("--keep", action="store_true", help="keep rows that were measured with other code, too")
    return parser.parse_args()


def measure(row: Any, seed: int, pairs: int) -> list[dict[str, Any]]:
    """Run each pair dense and in every way, one after the other, and compare."""
    from lib.quality.contestants import contestants
    from lib.quality.metrics import METRICS, compare
    from lib.quality.models import pairs_of, run

    listed = list(contestants(row))
    figures: list[dict[str, list[float]]] = [{name: [] for name in (*METRICS, "dense", "own", "share")} for _ in listed]
    jobs = pairs_of(row.testbed, pairs, seed)
    run(row.parts, row.setting, jobs[0])  # warms up
    for job in jobs:
        dense, seconds = run(row.parts, row.setting, job)
        for contestant, figure in zip(listed, figures, strict=True):
            own, own_seconds = run(contestant.parts, row.setting, job)
            found = {**compare(own, dense), "dense": seconds, "own": own_seconds}
            for name, value in {**found, "share": contestant.share(row.setting.steps)}.items():
                figure[name].append(value)
    return [
        {
            "family": contestant.family,
            "setting": contestant.setting,
            **{name: spread(figure[name]) for name in METRICS},
            "share": statistics.fmean(figure["share"]),
            "seconds": statistics.fmean(figure["own"]),
            "speedup": speedup(figure["dense"], figure["own"]),
        }
        for contestant, figure in zip(listed, figures, strict=True)
    ]


def speedup(dense: list[float], own: list[float]) -> dict[str, Any]:
    """Paired ratios of seconds and, as `total`, the ratio of all pairs' seconds together, as PSNR is a mean of all."""
    return {"total": sum(dense) / sum(own), **spread([d / o for d, o in zip(dense, own, strict=True)])}


def measure_row(args: argparse.Namespace, setting: Setting, clips: str) -> dict[str, Any]:
    from lib.quality.models import make_row

    row = make_row(setting, clips)
    pairs = args.pairs or row.pairs
    points = measure(row, args.seed, pairs)
    dense = [point["seconds"] * point["speedup"]["total"] for point in points]
    return {
        "setting": setting.name,
        "clips": clips,
        "sampling": setting.described,
        "levels": [round(level, 6) for part in row.parts for level in part.levels],
        "pairs": pairs,
        "dense_seconds": statistics.median(dense),
        "points": points,
    }


def save(path: Path, made: dict[str, Any], row: dict[str, Any]) -> None:
    """Add a row to the result, in place of an earlier one."""
    measured = {key: made[key] for key in ("date", "commit", "pack_code", "threads", "load_at_start")}

    def change(result: dict[str, Any]) -> None:
        others = [r for r in result.get("rows", []) if (r["setting"], r["clips"]) != (row["setting"], row["clips"])]
        result |= {"benchmark": "quality", "environment": made, "rows": [*others, {**row, "measured": measured}]}

    change_json(path, change)
    path.with_suffix(".md").write_text(quality_markdown(read_json(path) or {}), "utf-8")


def is_done(path: Path, setting: Setting, clips: str, code: str | None) -> bool:
    """Tell whether a row was measured with this code; None: with any."""
    rows = [r for r in (read_json(path) or {}).get("rows", []) if (r["setting"], r["clips"]) == (setting.name, clips)]
    return any(code in (None, row["measured"]["pack_code"]) for row in rows)


def show(row: dict[str, Any]) -> None:
    print(f"{row['setting']}, {row['clips']}: {row['dense_seconds']:.2f} s dense")
    for calls in SETTINGS[row["setting"]].calls:
        found = [p for p in row["points"] if p["setting"] == calls]
        print(f"  {calls:3d}  " + "  ".join(f"{p['family']} {p['psnr']['mean']:.1f}" for p in found), flush=True)


def main() -> None:
    args = arguments()
    host = process.start(args, cpu=True)
    path = args.out / f"quality-{host.version}.json"
    for setting in LISTED:
        for clips in setting.models if setting.name in args.setting else ():
            made = environment(host, args, "cpu")
            if args.models and clips not in args.models:
                continue
            if is_done(path, setting, clips, None if args.keep else made["pack_code"]):
                continue
            row = measure_row(args, setting, clips)
            save(path, made, row)
            show(row)
    print(f"written: {path} and .md")


if __name__ == "__main__":
    main()
