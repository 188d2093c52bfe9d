"""Is the rule of `auto` good on lists and solvers that it was not made for? Beside random and even placements.

python benchmarks/placement.py [--case beta-20 …] [--random 24] [--comfyui TREE]

Each case is run at two budgets with the steps that `auto` computes, at even intervals, and with as many drawn
at random between the first and the last one. `--tokens`: random shares of the tokens instead, on the settings of few
steps. Results are saved after each case; the same command resumes.
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.quality.cases import CASES, FEW_STEPS, Case
from lib.quality.tables import placement_markdown
from lib.results import change_json, read_json

BUDGETS = (0.5, 0.35)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--case", nargs="+", metavar="CASE", help="names of cases.py (default: all)")
    parser.add_argument("--random", type=int, default=24, help="random placements by budget")
    parser.add_argument("--pairs", type=int, default=3, help="prompt–seed pairs")
    parser.add_argument("--keep", action="store_true", help="keep cases that were measured with other code, too")
    parser.add_argument("--tokens", action="store_true", help="random shares of the tokens")
    return parser.parse_args()


class Bench:
    """A case's model and its dense runs."""

    def __init__(self, case: Case, pairs: int, seed: int):
        from lib.quality.models import make_row, pairs_of, run

        self.row = make_row(case.setting, case.clips)
        self._jobs = pairs_of(self.row.testbed, pairs, seed)
        self._dense = [run(self.row.parts, case.setting, job)[0] for job in self._jobs]

    @property
    def steps(self) -> int:
        return self.row.setting.steps

    def run(self, contestant: Any) -> dict[str, Any]:
        """PSNR by pair, and the steps that were computed: F; r reused, or the tenths of the tokens."""
        from lib.quality.metrics import compare
        from lib.quality.models import run

        found = [
            compare(run(contestant.parts, self.row.setting, job)[0], dense)["psnr"]
            for job, dense in zip(self._jobs, self._dense, strict=True)
        ]
        report = contestant.reports[0].last
        shares: dict[int, float] = {}
        for call in report.calls:
            shares.setdefault(call.step, call.computed / call.tokens)
        return {
            "steps": "".join("F" if s == 1.0 else "r" if s == 0.0 else f"{10 * s:.0f}" for s in shares.values()),
            "share": round(report.computed_share, 4),
            "psnr": [round(value, 3) for value in found],
        }

    def of_budgets(self, budgets: list[float]) -> dict[str, Any]:
        from lib.quality.contestants import exactly, scheduled

        return self.run(scheduled(self.row, "", 0, lambda part: exactly(part, budgets)))

    def auto(self, budget: float) -> dict[str, Any]:
        from lib.quality.contestants import scheduled

        return self.run(scheduled(self.row, "", 0, lambda part: None, budget))

    def even(self, count: int) -> dict[str, Any]:
        places = {round(i * (self.steps - 1) / (count - 1)) for i in range(count)}
        return self.of_budgets([float(step in places) for step in range(self.steps)])


def drawn_steps(steps: int, count: int, rng: random.Random) -> list[float]:
    """The first and the last step, and others at random."""
    computed = {0, steps - 1, *rng.sample(range(1, steps - 1), count - 2)}
    return [float(step in computed) for step in range(steps)]


def drawn_tokens(steps: int, count: int, rng: random.Random) -> list[float]:
    """A full first step, some full ones at the end, and tenths of the tokens at random between, as many in all."""
    tail = rng.randint(0, count - 1)
    tenths, free = [10, *[0] * (steps - 1 - tail), *[10] * tail], range(1, steps - tail)
    left = 10 * (count - 1 - tail)
    while left and any(tenths[step] < 10 for step in free):
        step = rng.choice(free)
        if tenths[step] < 10:
            tenths[step] += 1
            left -= 1
    return [each / 10 for each in tenths]


def measure(args: argparse.Namespace, case: Case) -> dict[str, Any]:
    bench, points = Bench(case, args.pairs, args.seed), []
    for budget in BUDGETS:
        auto = bench.auto(budget)
        count = auto["steps"].count("F")
        rng = random.Random(f"{args.seed} {case.name} {budget}")
        draw = drawn_tokens if args.tokens else drawn_steps
        drawn = [draw(bench.steps, count, rng) for _ in range(args.random)] if 2 <= count < bench.steps else []
        others = [bench.of_budgets(budgets) for budgets in dict.fromkeys(map(tuple, drawn))]
        points.append({"budget": budget, "auto": auto, "even": bench.even(count), "random": others})
        best = max((statistics.fmean(other["psnr"]) for other in others), default=None)
        mean = [statistics.fmean(points[-1][name]["psnr"]) for name in ("auto", "even")]
        print(f"{case.name:28} {budget:g} {auto['steps']} {mean[0]:.1f} even {mean[1]:.1f} random {best}", flush=True)
    return {
        "case": case.name,
        "clips": case.clips,
        "sampling": case.setting.described,
        "steps": case.setting.steps,
        "levels": [round(level, 6) for level in bench.row.parts[0].levels],
        "points": points,
    }


def main() -> None:
    args = arguments()
    host = process.start(args, cpu=True)
    path: Path = args.out / f"placement{'-tokens' if args.tokens else ''}-{host.version}.json"
    for case in FEW_STEPS if args.tokens else CASES:
        made = environment(host, args, "cpu")
        known = (read_json(path) or {}).get("rows", [])
        if args.case and case.name not in args.case:
            continue
        codes = {row["pack_code"] for row in known if row["case"] == case.name}
        if codes and (args.keep or made["pack_code"] in codes):
            continue
        row = {**measure(args, case), "pack_code": made["pack_code"], "date": made["date"], "commit": made["commit"]}

        def change(result: dict[str, Any], row: dict[str, Any] = row, made: dict[str, Any] = made) -> None:
            others = [other for other in result.get("rows", []) if other["case"] != row["case"]]
            result |= {"benchmark": path.stem.rpartition("-")[0], "environment": made, "rows": [*others, row]}

        change_json(path, change)
        path.with_suffix(".md").write_text(placement_markdown(read_json(path) or {}), "utf-8")
    print(f"written: {path} and .md")


if __name__ == "__main__":
    main()
