"""Finds the bundled schedules: the node's search, over both testbeds at once, for mild and for strong guidance.

python benchmarks/find_schedules.py [--steps 30 20 …] [--guidance 3 6] [--budgets 0.5 …] [--effort 36] [--write]

One search evaluates candidates on pairs of both testbeds, so that its result is not specific to one of them. Each
schedule is then compared with the hand-made one on other pairs; `--write` only writes schedules into the pack: the one
that was found where it is ahead, else the hand-made one. The models are tiny: for other models, bundled schedules are
transferred, and say so. Several processes may add to one result; rows it has are not searched again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.host.harness import load_tiny
from lib.results import ROOT, change_json, read_json, spread
from lib.search.cases import bench_for, psnr_of

BUDGETS = (0.7, 0.5, 0.4, 0.3, 0.25)
STEPS = (30, 20, 50, 12, 8)
GUIDANCE = (3.0, 6.0)
# Testbed and pairs: prompt number and seed.
CALIBRATION = (
    ("easy", ((0, 50), (1, 51), (2, 52), (3, 53), (4, 54), (5, 55))),
    ("hard", ((0, 50), (1, 51), (2, 52))),
)
CONTROL = (
    ("easy", tuple((number % 8, 70 + number) for number in range(10))),
    ("hard", ((4, 70), (5, 71), (6, 72), (7, 73))),
)
MIN_GAIN = 0.3  # dB over the hand-made schedule on the control pairs; less may be chance


class JointBench:
    """Several HostBenches with the same noise levels as one, their cases in turns."""

    def __init__(self, benches: Sequence[Any]):
        places = [[(bench, case) for case in range(bench.setting.cases)] for bench in benches]
        longest = max(map(len, places))
        self.cases = [group[i] for i in range(longest) for group in places if i < len(group)]
        identity = "+".join(bench.setting.identity[:8] for bench in benches)
        self.setting = dataclasses.replace(benches[0].setting, cases=len(self.cases), identity=identity)

    def dense(self, case: int) -> Any:
        bench, own = self.cases[case]
        return bench.dense(own)

    def proxy(self, cases: int) -> None:
        """None: cases of proxy clips would not be attributed to their model."""

    def measure(self, jobs: Sequence[Any]) -> Iterator[Any]:
        for job in jobs:
            bench, own = self.cases[job.case]
            yield from bench.measure([dataclasses.replace(job, case=own)])


def joint(models: dict[str, Any], steps: int, cfg: float, groups: Sequence[Any]) -> JointBench:
    from astraea.tiny.training.testbeds import TESTBEDS

    return JointBench(
        [
            bench_for(
                models[name],
                TESTBEDS[name],
                {"steps": steps, "cfg": cfg, "sampler": "euler"},
                [(TESTBEDS[name].prompts[number], seed) for number, seed in pairs],
            )
            for name, pairs in groups
        ]
    )


def means_by_testbed(losses: Sequence[float], bench: JointBench) -> dict[str, float]:
    """Mean PSNR."""
    found: dict[str, list[float]] = {}
    for loss, (own, _) in zip(losses, bench.cases, strict=True):
        name = "easy" if own.setting.facts["sampling"]["latent"][-1] == 16 else "hard"
        found.setdefault(name, []).append(psnr_of(loss))
    return {name: round(fmean(values), 2) for name, values in found.items()}


def search_one(bench: JointBench, control: Any, budget: float, args: argparse.Namespace) -> dict[str, Any]:
    """The row of one search: its schedule and the hand-made one on the control pairs."""
    from lib.search.contestants import from_baseline, genome_of

    from astraea.search.driver import Search
    from astraea.search.evaluation.run_log import RunLog
    from astraea.search.problem.config import SearchConfig

    run_log = RunLog(args.run_log / f"bundle-{bench.setting.identity}.jsonl", bench.setting.identity)
    with from_baseline():
        result = Search(bench, run_log, SearchConfig(budgets=(budget,), effort=args.effort, seed=args.seed)).run()
    genomes = [genome_of(result.best[0].schedule), genome_of(result.baselines[0].schedule)]
    found, baseline = control.evaluate(genomes, range(control.setting.cases))
    gains = [psnr_of(own) - psnr_of(other) for own, other in zip(found.losses, baseline.losses, strict=True)]
    return {
        "budget": budget,
        "spent": round(result.cost, 2),
        "sigmas": list(bench.setting.sigmas[:-1]),
        "budgets": list(genomes[0].budgets),
        "budgets_drawn": list(genomes[1].budgets),
        "mode": genomes[0].mode,
        "forecast": dataclasses.asdict(genomes[0].forecast),
        "calibration_psnr": round(result.best[0].psnr, 2),
        "calibration_psnr_drawn": round(result.baselines[0].psnr, 2),
        "psnr": round(found.score, 2),
        "psnr_drawn": round(baseline.score, 2),
        "gain": spread(gains),
        "psnr_by": means_by_testbed(found.losses, control.runner),
        "psnr_by_drawn": means_by_testbed(baseline.losses, control.runner),
    }


def search_for(
    models: dict[str, Any], steps: int, cfg: float, args: argparse.Namespace, path: Path, measured_with: dict[str, Any]
) -> None:
    """Adds the rows of all missing budgets; dense runs are shared."""
    from astraea.search.evaluation.evaluator import Evaluator
    from astraea.search.evaluation.run_log import RunLog

    known = {(row["steps"], row["guidance"], row["budget"]) for row in (read_json(path) or {"rows": []})["rows"]}
    missing = [budget for budget in args.budgets if (steps, cfg, budget) not in known]
    if not missing:
        return
    bench, control = joint(models, steps, cfg, CALIBRATION), Evaluator(joint(models, steps, cfg, CONTROL), RunLog())
    for budget in missing:
        row = {"steps": steps, "guidance": cfg, **search_one(bench, control, budget, args)}
        row["bundled"] = is_worth_it(row)
        row["found"] = {name: measured_with[name] for name in ("comfyui", "command", "commit", "date")}
        print(f"{steps} steps, guidance {cfg:g}, {budget:g}: {row['gain']['mean']:+.2f} dB", flush=True)

        def add(result: dict[str, Any], row: dict[str, Any] = row) -> None:
            rows = [*result.get("rows", []), row]
            result["environment"] = measured_with
            result["rows"] = sorted(rows, key=lambda r: (r["steps"], r["guidance"], -r["budget"]))

        change_json(path, add)


def is_worth_it(row: dict[str, Any]) -> bool:
    """True if it is ahead on the control pairs, behind on neither testbed, and has no partial steps.

    Partial steps need a tensor per block, and their cost depends on the device.
    """
    behind = any(row["psnr_by"][name] < row["psnr_by_drawn"][name] for name in row["psnr_by"])
    return row["gain"]["mean"] >= MIN_GAIN and not behind and set(row["budgets"]) <= {0.0, 1.0}


def write_schedules(result: dict[str, Any]) -> None:
    """Writes a file for each row: the found schedule if it is ahead on the control pairs, else the hand-made one.

    A hand-made file for these steps keeps schedules for other steps from being taken. For usual steps and guidance the
    hand-made ones exist already.
    """
    from astraea.schedules import DEFAULT_FORECAST, Forecast, Schedule, bundled_folder, save
    from astraea.schedules.selection import USUAL_GUIDANCE, USUAL_STEPS

    for row in result["rows"]:
        ahead = row["bundled"]
        if not ahead and (row["steps"], row["guidance"]) == (USUAL_STEPS, USUAL_GUIDANCE):
            continue
        budgets = row["budgets" if ahead else "budgets_drawn"]
        points = tuple(zip(row["sigmas"], budgets, strict=True))
        name = f"any-{row['budget']:.2f}-{row['steps']}-steps-cfg-{row['guidance']:g}"
        mode, forecast = (row["mode"], Forecast(**row["forecast"])) if ahead else ("default", DEFAULT_FORECAST)
        made = Schedule(name, points, "any", mode, forecast, provenance_of(row))
        print(f"{save(made, bundled_folder(), overwrite=True).name}: {'found' if ahead else 'hand-made'}")


def provenance_of(row: dict[str, Any]) -> dict[str, Any]:
    found = "searched" if row["bundled"] else "searched, without finding better whole steps than those drawn by hand"
    ahead = {"psnr_db": row["psnr_by"]} if row["bundled"] else {}
    return {
        "found": f"{found}; transferred, not searched on this model",
        "on": "two tiny Wan models (2.8 M parameters; easy clips of 384 tokens, hard ones of 1,536), no other model",
        "budget": row["budget"],
        "guidance": row["guidance"],
        "sampling": f"{row['steps']} steps, euler, simple, shift 8, guidance {row['guidance']:g}",
        "figures": {
            **ahead,
            "psnr_db_drawn_by_hand": row["psnr_by_drawn"],
            "runs": sum(len(pairs) for _, pairs in CONTROL),
        },
        "dense_run_equivalents": row["spent"],
        "comfyui": row["found"]["comfyui"],
        "command": row["found"]["command"],
        "date": row["found"]["date"][:10],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--guidance", type=float, nargs="+", default=list(GUIDANCE))
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS))
    parser.add_argument("--effort", type=float, default=36.0)
    parser.add_argument("--run-log", type=Path, default=ROOT / "output" / "search")
    parser.add_argument(
        "--write", action="store_true", help="write the schedules of the result into the pack; search nothing"
    )
    args = parser.parse_args()
    host = process.start(args, cpu=True)
    import torch

    from astraea.tiny.training.testbeds import TESTBEDS

    os.nice(5)
    path = args.out / f"schedules-{host.version}.json"
    if args.write:
        write_schedules(read_json(path) or {"rows": []})
        return
    models = {name: load_tiny(testbed.checkpoint) for name, testbed in TESTBEDS.items()}
    measured_with = environment(host, args, "cpu")
    with torch.inference_mode():
        for steps in args.steps:
            for cfg in args.guidance:
                search_for(models, steps, cfg, args, path, measured_with)


if __name__ == "__main__":
    main()
