"""Finds the bundled schedules: the node's search, over both testbeds and two guidance scales at once.

python benchmarks/find_schedules.py [--steps 30 20 …] [--budgets 0.5 …] [--effort 40] [--write]

One search judges candidates on pairs of both testbeds at guidance 3 and 6, so that what it finds is not made for one
of them. Each schedule is then compared with the one drawn by hand (`find_shapes.py`) on other pairs, and written only
where it is ahead there. The models are tiny: for any other, what is bundled is transferred, and says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import host_process
from environment import environment, read_json, write_json
from search_pairs import bench_for, psnr_of

BUDGETS = (0.7, 0.5, 0.4, 0.3, 0.25)
STEPS = (30, 20, 50, 12, 8)
# Testbed, guidance, pairs: prompt number and seed.
CALIBRATION = (
    ("easy", 3.0, ((0, 50), (1, 51), (2, 52))),
    ("easy", 6.0, ((3, 53), (4, 54), (5, 55))),
    ("hard", 3.0, ((0, 50),)),
    ("hard", 6.0, ((1, 51),)),
)
CONTROL = (
    ("easy", 3.0, ((4, 70), (5, 71), (6, 72), (7, 73))),
    ("easy", 6.0, ((0, 74), (1, 75), (2, 76), (3, 77))),
    ("hard", 3.0, ((2, 70), (3, 71))),
    ("hard", 6.0, ((4, 72), (5, 73))),
)
WORTH_IT = 0.3  # dB over the drawn one on the control pairs; less may be chance
FAMILIES = ("wan", "any")


class JointBench:
    """Several benches of the same noise levels as one: their cases one after another, by turns."""

    def __init__(self, benches: Sequence[Any]):
        places = [[(bench, case) for case in range(bench.setting.cases)] for bench in benches]
        longest = max(map(len, places))
        self.cases = [group[i] for i in range(longest) for group in places if i < len(group)]
        identity = "+".join(bench.setting.identity[:8] for bench in benches)
        self.setting = dataclasses.replace(benches[0].setting, cases=len(self.cases), identity=identity)

    def dense(self, case: int) -> Any:
        bench, own = self.cases[case]
        return bench.dense(own)

    def measure(self, jobs: Sequence[Any]) -> Iterator[Any]:
        for job in jobs:
            bench, own = self.cases[job.case]
            yield from bench.measure([dataclasses.replace(job, case=own)])


def joint(models: dict[str, Any], steps: int, groups: Sequence[Any]) -> JointBench:
    from astraea.tiny.testbeds import TESTBEDS

    return JointBench(
        [
            bench_for(
                models[name],
                TESTBEDS[name],
                {"steps": steps, "cfg": cfg, "sampler": "euler"},
                [(TESTBEDS[name].prompts[number], seed) for number, seed in pairs],
            )
            for name, cfg, pairs in groups
        ]
    )


def means_by_group(losses: Sequence[float], bench: JointBench) -> dict[str, float]:
    """Mean PSNR by testbed and guidance."""
    found: dict[str, list[float]] = {}
    for loss, (own, _) in zip(losses, bench.cases, strict=True):
        sampling = own.setting.facts["sampling"]
        name = "easy" if sampling["latent"][-1] == 16 else "hard"
        found.setdefault(f"{name}, cfg {sampling['cfg']:g}", []).append(psnr_of(loss))
    return {name: fmean(values) for name, values in found.items()}


def search_one(models: dict[str, Any], steps: int, budget: float, args: argparse.Namespace) -> dict[str, Any]:
    """One row: what was found, and how it does on the control pairs beside what is drawn by hand."""
    from astraea.search.driver import Search
    from astraea.search.genome import genome_of
    from astraea.search.judge import Judge
    from astraea.search.memo import Memo

    bench = joint(models, steps, CALIBRATION)
    memo = Memo(args.memo / f"bundle-{steps}-{bench.setting.identity}.jsonl", bench.setting.identity)
    result = Search(bench, memo, budgets=[budget], effort=args.effort, seed=args.seed).run()
    control = joint(models, steps, CONTROL)
    judge = Judge(control, Memo())
    genomes = [genome_of(result.best[0].schedule), genome_of(result.hand_made[0].schedule)]
    found, drawn = judge.verdicts(genomes, range(control.setting.cases))
    row = {
        "steps": steps,
        "budget": budget,
        "spent": round(result.spent, 2),
        "sigmas": list(bench.setting.sigmas[:-1]),
        "budgets": list(genomes[0].budgets),
        "mode": genomes[0].mode,
        "forecast": dataclasses.asdict(genomes[0].forecast),
        "calibration_psnr": round(result.best[0].psnr, 2),
        "calibration_psnr_drawn": round(result.hand_made[0].psnr, 2),
        "psnr": round(found.score, 2),
        "psnr_drawn": round(drawn.score, 2),
        "psnr_by": {name: round(value, 2) for name, value in means_by_group(found.losses, control).items()},
        "psnr_by_drawn": {name: round(value, 2) for name, value in means_by_group(drawn.losses, control).items()},
    }
    print(f"{steps} steps, {budget:g}: {row['psnr']} dB, drawn {row['psnr_drawn']} dB", flush=True)
    return row


def write_schedules(rows: Sequence[dict[str, Any]], told: dict[str, Any]) -> None:
    """Files of the schedules that are ahead of what is drawn by hand, on the control pairs."""
    from astraea.schedules import Forecast, Schedule, bundled_folder, save

    for row in rows:
        if row["psnr"] - row["psnr_drawn"] < WORTH_IT:
            continue
        for family in FAMILIES:
            points = tuple(zip(row["sigmas"], row["budgets"], strict=True))
            name = f"{family}-{row['budget']:.2f}-{row['steps']}-steps"
            forecast = Forecast(**row["forecast"])
            made = Schedule(name, points, family, row["mode"], forecast, provenance_of(row, told))
            print(save(made, bundled_folder(), overwrite=True).name)


def provenance_of(row: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    return {
        "found": "searched on two tiny Wan models (2.8 M parameters); transferred, not searched on this model",
        "budget": row["budget"],
        "sampling": f"{row['steps']} steps, euler, simple, shift 8, guidance 3 and 6",
        "figures": {
            "psnr_db": row["psnr_by"],
            "psnr_db_drawn_by_hand": row["psnr_by_drawn"],
            "runs": sum(len(pairs) for _, _, pairs in CONTROL),
        },
        "dense_run_equivalents": row["spent"],
        "comfyui": told["comfyui"],
        "command": told["command"],
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_arguments(parser)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS))
    parser.add_argument("--effort", type=float, default=32.0)
    parser.add_argument("--memo", type=Path, default=host_process.ROOT / "output" / "search")
    parser.add_argument("--write", action="store_true", help="write the schedules that are ahead into the pack")
    args = parser.parse_args()
    host = host_process.start(args, cpu=True)
    import torch
    from faster_cpu import use_onednn
    from harness import load_tiny

    from astraea.tiny.testbeds import TESTBEDS

    use_onednn()
    os.nice(5)
    models = {name: load_tiny(testbed.checkpoint) for name, testbed in TESTBEDS.items()}
    path = args.out / f"schedules-{host.version}.json"
    result = read_json(path) or {"rows": []}
    result["environment"] = environment(host, args, "cpu")
    with torch.inference_mode():
        for steps in args.steps:
            for budget in args.budgets:
                row = search_one(models, steps, budget, args)
                others = [r for r in result["rows"] if (r["steps"], r["budget"]) != (steps, budget)]
                result["rows"] = [*others, row]
                write_json(path, result)
    if args.write:
        write_schedules(result["rows"], result["environment"])


if __name__ == "__main__":
    main()
