"""What a search adds to `auto`, on prompts and seeds that it has not seen, in the real ComfyUI.

python benchmarks/search.py [--setting h3 ltx …] [--models easy "easy steps" …] [--budgets 0.5 0.35] [--comfyui TREE]

The node's search *instant* and *quick*, and the paper's search from a random population with three times the effort of
the latter. Each searches on the same prompts, and its schedule is run on held-out prompt–seed pairs. PSNR in dB against
the dense run of the same seed. Results are saved after each setting; the same command resumes.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.quality.settings import LISTED, SETTINGS, Setting
from lib.quality.tables import search_markdown
from lib.results import change_json, read_json

EFFORTS = {"instant": 3.0, "quick": 10.0, "paper's": 30.0}  # dense-run equivalents
USUAL = "auto"
HELD_OUT_SEED = 1000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="only these; see settings.py")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.35])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the searches")
    parser.add_argument("--held-out", type=int, default=8, help="held-out pairs")
    return parser.parse_args()


def measure(args: argparse.Namespace, setting: Setting, clips: str) -> list[dict[str, Any]]:
    """Schedules of all contestants, each run on the held-out pairs."""
    from lib.quality.models import make_row
    from lib.quality.runners import runner_of, searched_pairs

    from astraea.search.driver import Search
    from astraea.search.evaluation.evaluator import Evaluator
    from astraea.search.evaluation.run_log import RunLog
    from astraea.search.problem.candidate import Genome
    from astraea.search.problem.config import ASTRAEA, PAPER, SearchConfig
    from astraea.search.problem.losses import mean_psnr
    from astraea.search.proposals.initial import enough_budget, usual_candidate

    row = make_row(setting, clips)
    prompts = row.testbed.prompts
    held_out = Evaluator(
        runner_of(row, [(prompts[n % len(prompts)], HELD_OUT_SEED + n) for n in range(args.held_out)]), RunLog()
    )
    searched, found = runner_of(row, searched_pairs(row.testbed)), []

    def take(contestant: str, budget: float, seed: int, cost: float, genome: Any) -> None:
        losses = held_out.evaluate([genome], range(args.held_out))[0].losses
        psnr = [round(mean_psnr([loss]), 3) for loss in losses]
        steps = "".join("F" if b == 1.0 else "r" if b == 0.0 else f"{10 * b:.0f}" for b in genome.budgets)
        keys = {"setting": setting.name, "clips": clips, "contestant": contestant, "budget": budget, "seed": seed}
        found.append({**keys, "spent": round(cost, 2), "psnr": psnr, "steps": steps, "forecast": vars(genome.forecast)})
        print(f"{setting.name}, {clips} {budget:g} {contestant:8} {steps} {sum(psnr) / len(psnr):.2f}", flush=True)

    for budget in args.budgets:
        take(USUAL, budget, 0, 0.0, usual_candidate(searched.setting, enough_budget(searched.setting, budget)))
        for seed, (name, effort) in itertools.product(args.seeds, EFFORTS.items()):
            method = PAPER if name == "paper's" else ASTRAEA
            result = Search(searched, RunLog(), SearchConfig((budget,), effort, seed, method)).run()
            for best in result.best[:1]:
                schedule = best.schedule
                take(name, budget, seed, result.cost, Genome(schedule.budgets, schedule.forecast, schedule.mode))
    return found


def main() -> None:
    args = arguments()
    host = process.start(args, cpu=True)
    path: Path = args.out / f"search-{host.version}.json"
    for setting in LISTED:
        for clips in setting.models if setting.name in args.setting else ():
            made = environment(host, args, "cpu")
            rows = (read_json(path) or {}).get("rows", [])
            is_wanted = not clips.endswith("experts") and (not args.models or clips in args.models)
            key = (setting.name, clips, made["pack_code"])
            if not is_wanted or any((r["setting"], r["clips"], r["pack_code"]) == key for r in rows):
                continue
            measured = [{**each, "pack_code": made["pack_code"]} for each in measure(args, setting, clips)]

            def change(result: dict[str, Any], measured: Any = measured, made: Any = made, key: Any = key) -> None:
                others = [r for r in result.get("rows", []) if (r["setting"], r["clips"]) != key[:2]]
                result |= {"benchmark": "search", "environment": made, "rows": [*others, *measured]}

            change_json(path, change)
            path.with_suffix(".md").write_text(search_markdown(read_json(path) or {}), "utf-8")
    print(f"written: {path} and .md")


if __name__ == "__main__":
    main()
