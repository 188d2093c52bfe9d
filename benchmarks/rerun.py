"""How far two measurements of one quality table agree: `python benchmarks/rerun.py FIRST.json SECOND.json`.

Writes results/rerun-TABLE-HOST.json, named after the second's ComfyUI. Measure the second with `quality.py --out
FOLDER`, or under another ComfyUI. No measurement, no host: standard library only.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import RESULTS

CONDITIONS = ("comfyui", "torch", "cpu", "threads", "commit", "date", "command")


def agreement(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Row by row: PSNR of both in dB, the largest difference of a pair, the spread over pairs, both speed-ups."""
    if first["settings"] != second["settings"]:
        raise SystemExit("These are not the same table with the same settings.")
    others = {row["name"]: row for row in second["rows"]}
    rows = []
    for row in first["rows"]:
        other = others[row["name"]]
        pairs = [abs(a - b) for a, b in zip(row["psnr"]["all"], other["psnr"]["all"], strict=False)]
        spread = statistics.stdev(row["psnr"]["all"]) if len(row["psnr"]["all"]) > 1 else 0.0
        rows.append(
            {
                "name": row["name"],
                "psnr": [row["psnr"]["mean"], other["psnr"]["mean"]],
                "most_apart": max(pairs),
                "spread": spread,
                "speedup": [row["speedup"]["total"], other["speedup"]["total"]],
            }
        )
    return {
        "benchmark": "rerun",
        "table": first["settings"]["table"],
        "runs": [{key: result["environment"][key] for key in CONDITIONS} for result in (first, second)],
        "most_apart": max(row["most_apart"] for row in rows),
        "speedup_ratios": speed_ratios(rows),
        "rows": rows,
    }


def speed_ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Second over first speed-up."""
    ratios = [row["speedup"][1] / row["speedup"][0] for row in rows]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs=2, type=Path, metavar="JSON")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    first, second = (json.loads(path.read_text("utf-8")) for path in args.results)
    found = agreement(first, second)
    path = args.out / f"rerun-{found['table']}-{second['environment']['comfyui']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    ratios = found["speedup_ratios"]
    print(f"{len(found['rows'])} rows; PSNR of a pair at most {found['most_apart']:.3f} dB apart")
    print(f"speed-up, second over first: {ratios['median']:.3f} ({ratios['min']:.3f}…{ratios['max']:.3f})")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
