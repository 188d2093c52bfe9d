"""Finds the bundled hand-made schedules: tries shapes at every budget on both testbeds and writes the best.

python benchmarks/find_shapes.py --seed 100 [--comfyui TREE] [--write]

A shape is a rhythm, how many full steps come before and after it, and how the rest is estimated; each is brought to
the budget and judged by its PSNR against the dense run, over testbeds, prompts, seeds and guidance scales. Where a
budget does not come to whole steps, a shape of them computes as many as it pays for, and is judged at equal cost: by
the value between theirs and that of one more. Nothing is searched: this is trying what one would draw by hand. The
seeds are others than those of `quality.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import math
from collections.abc import Iterator, Sequence
from statistics import fmean as mean
from typing import Any

import host_process
from environment import environment, spread, write_json
from harness import accelerated, load_tiny, sample, sigmas_of
from quality_tables import TESTBEDS

BUDGETS = (0.7, 0.5, 0.4, 0.3, 0.25)
LEANS = (-0.125, 0.0, 0.125)
TOKEN_PATTERNS = ((0.5,), (0.05, 0.05, 0.9), (0.1, 0.3, 0.8), (0.0, 0.0, 0.7), (0.0, 0.5))
TOKEN_MODES = ("default", "refit", "forecast")
HEADS = (1, 2, 3)
TAILS = (1, 2, 4)
PARTIAL = (1, 2, 3, 4, 5)
# Whole steps keep two latents; a schedule with token steps keeps a tensor per block and must be clearly better.
WORTH_A_STORE = 1.0
TIE = 0.25  # dB; among shapes so close the one that is never far behind is taken
HOPELESS = 8.0  # dB behind the best mean so far, over the runs made so far


@dataclasses.dataclass(frozen=True)
class Case:
    """One run to judge by: of which testbed and guidance, the model, and what the dense run gave."""

    label: str
    model: Any
    job: Any
    reference: Any


def shapes() -> Iterator[Any]:
    from drawn import EVERY_OTHER, Shape

    for tail, warp in itertools.product(TAILS, LEANS):
        yield Shape(1, warp=warp, tail=tail)
    for partial in PARTIAL:
        yield Shape(1, partial=partial)
    for head in HEADS[1:]:
        yield Shape(head)
    for head in HEADS:
        yield Shape(head, EVERY_OTHER)
    for pattern, head, mode in itertools.product(TOKEN_PATTERNS, HEADS[:2], TOKEN_MODES):
        yield Shape(head, pattern, mode=mode)


def try_all(cases: Sequence[Case], budget: float, candidates: Sequence[Any]) -> tuple[list[dict[str, Any]], int]:
    """The shapes' figures at one budget, best first, without those dropped as hopeless; and how many were tried."""
    from drawn import schedule_of

    sigmas = grid_of(cases)
    rows: list[dict[str, Any]] = []
    best: list[float] = []
    tried = set()
    for shape in candidates:
        schedule = schedule_of(shape, paid_for(shape, budget, len(sigmas)), sigmas, "candidate")
        if (schedule.budgets, schedule.mode) in tried:  # two leans can come to the same steps
            continue
        tried.add((schedule.budgets, schedule.mode))
        values, share = judge(cases, schedule, best)
        if len(values) < len(cases):
            continue
        best = max(best, values, key=lambda found: mean(found) if found else float("-inf"))
        row = {"shape": shape, "psnr": spread(values), "by_label": means_by_label(cases, values), "share": share}
        row["at_equal_cost"] = means_by_label(cases, at_budget(cases, shape, budget, values))
        rows.append(row)
        told = ", ".join(f"{label}: {part:.2f}" for label, part in row["at_equal_cost"].items())
        print(f"{budget}  {shape.title:70} {share:.1%} {mean(values):6.2f} dB  (at equal cost {told})", flush=True)
    return sorted(rows, key=merit, reverse=True), len(tried)


def merit(row: dict[str, Any]) -> float:
    """PSNR at equal cost, every testbed and guidance counting alike."""
    return mean(row["at_equal_cost"].values())


def paid_for(shape: Any, budget: float, steps: int) -> float:
    """The part of the budget that a shape can spend: whole steps come to as many as fit in."""
    return math.floor(budget * steps + 1e-6) / steps if shape.whole else budget


def at_budget(cases: Sequence[Case], shape: Any, budget: float, values: Sequence[float]) -> list[float]:
    """What `values`, PSNR at the part of the budget that the shape spends, would be at all of it."""
    from drawn import schedule_of

    sigmas = grid_of(cases)
    unspent = (budget - paid_for(shape, budget, len(sigmas))) * len(sigmas)
    if unspent < 1e-6:
        return list(values)
    one_more = schedule_of(shape, math.ceil(budget * len(sigmas)) / len(sigmas), sigmas, "one step more")
    more, _ = judge(cases, one_more, [])
    return [less + unspent * (value - less) for less, value in zip(values, more, strict=True)]


def judge(cases: Sequence[Case], schedule: Any, best: Sequence[float]) -> tuple[list[float], float]:
    """PSNR of every case, fewer where the schedule is hopeless; and the share of tokens it computes."""
    from quality_metrics import compare

    values: list[float] = []
    for case in cases:
        candidate, handle = accelerated(case.model, schedule)
        values.append(compare(sample(candidate, case.job)[0], case.reference)["psnr"])
        if best and mean(values) < mean(best[: len(values)]) - HOPELESS:
            break
    return values, handle.last.computed_share


def grid_of(cases: Sequence[Case]) -> list[float]:
    return sigmas_of(cases[0].model, cases[0].job.steps)[:-1]


def means_by_label(cases: Sequence[Case], values: Sequence[float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for case, value in zip(cases, values, strict=True):
        found.setdefault(case.label, []).append(value)
    return {label: mean(part) for label, part in found.items()}


def choose(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best row; whole steps unless token steps, which need a store per block, are clearly better at equal cost.

    Of rows that are as good on average it is the one that falls least behind the best under any label. Whole steps, all
    of which spend as much, are told apart by what they compute.
    """
    whole = [row for row in rows if row["shape"].whole]
    figures = "at_equal_cost"
    if whole and merit(rows[0]) - merit(whole[0]) < WORTH_A_STORE:
        rows, figures = whole, "by_label"
    most = max(mean(row[figures].values()) for row in rows)
    tied = [row for row in rows if mean(row[figures].values()) > most - TIE]
    best = {label: max(row[figures][label] for row in rows) for label in rows[0][figures]}
    return min(tied, key=lambda row: max(best[label] - value for label, value in row[figures].items()))


def against_tokens(rows: Sequence[dict[str, Any]]) -> str:
    """How the best whole steps compare with the best token steps at this budget, in a sentence for users."""
    best = {whole: next((r for r in rows if r["shape"].whole == whole), None) for whole in (True, False)}
    if best[True] is None or best[False] is None:
        return ""
    ahead = merit(best[True]) - merit(best[False])
    ahead_by = f"{abs(ahead):.1f} dB {'ahead of' if ahead >= 0.0 else 'behind'}"
    found = f"on two small test models whole steps were {ahead_by} the best token steps at this budget"
    return found if ahead >= 0.0 else f"{found}, which keep a tensor per block"


def provenance(
    row: dict[str, Any], measured: dict[str, Any], cases: Sequence[Case], tried: int, why: str
) -> dict[str, Any]:
    """What a schedule says of itself. measured: see `environment`; tried: how many shapes the row is the best of."""
    figures, job = row["psnr"], cases[0].job
    return {
        "found": f"by hand: the best of {tried} drawn shapes tried; not searched",
        "shape": row["shape"].title,
        **({"why": why} if why else {}),
        "on": "two tiny Wan models (2.8 M parameters; easy clips of 384 tokens, hard ones of 1,536), no other model",
        "sampling": f"{job.steps} steps, {job.sampler}, {job.scheduler}, shift 8",
        "figures": {
            "psnr_db": {label: round(value, 2) for label, value in row["by_label"].items()},
            "psnr_db_range": [round(figures["min"], 2), round(figures["max"], 2)],
            "runs": len(cases),
            "tokens_computed": round(row["share"], 4),
        },
        "comfyui": measured["comfyui"],
        "command": measured["command"],
        "date": datetime.date.today().isoformat(),
    }


def write_schedules(chosen: dict[float, tuple[dict, dict]], sigmas: Sequence[float]) -> None:
    from drawn import schedule_of

    from astraea.schedules import bundled_folder, save

    for budget, (row, found) in chosen.items():
        for family in ("wan", "any"):
            note = {} if family == "wan" else {"transferred": "made for Wan, not tried on other families"}
            name = f"{family}-{budget:.2f}"
            spent = paid_for(row["shape"], budget, len(sigmas))
            schedule = schedule_of(row["shape"], spent, sigmas, name, family=family, provenance={**found, **note})
            save(schedule, bundled_folder(), overwrite=True)


def make_cases(args: argparse.Namespace) -> list[Case]:
    """Every testbed and guidance in turn, so that a shape that fails in one of them is soon dropped."""
    from quality_candidates import jobs, testbed_of
    from quality_tables import Table

    columns = []
    for name in args.testbeds:
        for cfg in args.cfg:
            table = Table(name, f"cfg{cfg:g}", cfg=cfg, steps=args.steps)
            testbed = testbed_of(table)
            model = load_tiny(testbed.checkpoint)
            pairs = jobs(testbed, table, args.pairs, args.seed)
            columns.append([Case(f"{name}, cfg {cfg:g}", model, job, sample(model, job)[0]) for job in pairs])
    return [case for row in zip(*columns, strict=True) for case in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_arguments(parser)
    parser.add_argument("--testbeds", nargs="+", choices=TESTBEDS, default=list(TESTBEDS))
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--cfg", type=float, nargs="+", default=[3.0, 6.0])
    parser.add_argument("--whole-steps-only", action="store_true", help="leave token rhythms out")
    parser.add_argument("--only", default="", metavar="TITLE", help="shapes whose titles begin so")
    parser.add_argument("--tag", default="", help="added to the result's name")
    parser.add_argument(
        "--write", action="store_true", help="write the best shape of every budget to schedules/bundled"
    )
    args = parser.parse_args()
    host = host_process.start(args, cpu=True)
    cases = make_cases(args)
    candidates = [shape for shape in shapes() if not shape.pattern or shape.whole or not args.whole_steps_only]
    candidates = [shape for shape in candidates if shape.title.startswith(args.only)]
    result: dict[str, Any] = {"benchmark": "find_shapes", "environment": environment(host, args, "cpu"), "budgets": {}}
    chosen = {}
    for budget in args.budgets:
        rows, tried = try_all(cases, budget, candidates)
        best = choose(rows)
        chosen[budget] = (best, provenance(best, result["environment"], cases, tried, against_tokens(rows)))
        print(f"{budget}: {best['shape'].title}", flush=True)
        result["budgets"][str(budget)] = [{**row, "shape": row["shape"].title} for row in rows]
        write_json(args.out / f"shapes-{host.version}{args.tag}.json", result)
    if args.write:
        write_schedules(chosen, grid_of(cases))


if __name__ == "__main__":
    main()
