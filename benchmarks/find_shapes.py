"""Finds the bundled hand-made schedules: tries shapes at every budget on the embedded model and writes the best.

python benchmarks/find_shapes.py --seed 100 [--comfyui TREE] [--write]

A shape is a rhythm, how many full steps come before and after it, and how the rest is estimated; each is brought to
exactly the budget and judged by its PSNR against the dense run, over prompts, seeds and guidance scales.
Nothing is searched: this is trying what one would draw by hand. The seeds are others than those of `quality.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
from collections.abc import Iterator, Sequence
from statistics import fmean as mean
from typing import Any

import host_process
from environment import environment, spread, write_json
from harness import accelerated, load_tiny, psnr, sample, sigmas_of

BUDGETS = (0.7, 0.5, 0.4, 0.3)
LEANS = (-0.125, 0.0, 0.125)
TOKEN_PATTERNS = ((0.5,), (0.05, 0.05, 0.9), (0.1, 0.3, 0.8), (0.0, 0.0, 0.7), (0.0, 0.5))
TOKEN_MODES = ("default", "refit", "forecast")
EVERY_OTHER = (0.0, 1.0)
HEADS = (1, 2, 3)
TAILS = (1, 2, 4)
# Whole steps keep two latents; a schedule with token steps keeps a tensor per block and must be clearly better.
WORTH_A_STORE = 1.0
HOPELESS = 8.0  # dB behind the best mean so far, over the runs made so far


@dataclasses.dataclass(frozen=True)
class Shape:
    """One hand-made shape. head, tail: full steps it begins and ends with; no pattern: steps that lean (`leaning`)."""

    head: int
    pattern: tuple[float, ...] = ()
    lean: float = 0.0
    tail: int = 1
    mode: str = "default"

    @property
    def whole(self) -> bool:
        return set(self.pattern) <= set(EVERY_OTHER)

    @property
    def title(self) -> str:
        if not self.pattern:
            between = f"whole steps leaning {self.lean:g} to where sigma falls"
            return f"{self.head} full, {between}, {self.tail} full ({self.mode})"
        return f"{self.head} full, then {' '.join(f'{b:g}' for b in self.pattern)} ({self.mode})"


def shapes() -> Iterator[Shape]:
    for tail, lean in itertools.product(TAILS, LEANS):
        yield Shape(1, lean=lean, tail=tail)
    for head in HEADS[1:]:
        yield Shape(head)
    for head in HEADS:
        yield Shape(head, EVERY_OTHER)
    for pattern, head, mode in itertools.product(TOKEN_PATTERNS, HEADS[:2], TOKEN_MODES):
        yield Shape(head, pattern, mode=mode)


def schedule_of(shape: Shape, budget: float, sigmas: Sequence[float], name: str, **extra: Any) -> Any:
    """The shape at exactly the budget; a token pattern is re-placed after its head so as to meet the mean."""
    from astraea.schedules import Schedule, budgets_for, leaning, rhythm

    if not shape.pattern:
        ends = {"full_start": shape.head, "full_end": shape.tail}
        made = leaning(name, budget, sigmas, lean=shape.lean, mode=shape.mode, **ends)
        return dataclasses.replace(made, **extra)
    head, steps = shape.head, len(sigmas)
    body = rhythm("body", list(shape.pattern), sigmas[head:], full_start=0)
    grid = [*sigmas[head - 1 :], 0.0]
    placed = budgets_for(body, grid, mean=(budget * steps - head + 1.0) / (steps - head + 1))
    budgets = [1.0] * (head - 1) + placed
    return Schedule(name, tuple(zip(sigmas, budgets, strict=True)), mode=shape.mode, **extra)


def try_all(
    model: Any, budget: float, jobs: list[Any], references: list[Any], candidates: Sequence[Shape]
) -> tuple[list[dict[str, Any]], int]:
    """The shapes' figures at one budget, best first, without those dropped as hopeless; and how many were tried."""
    sigmas = sigmas_of(model, jobs[0].steps)[:-1]
    rows: list[dict[str, Any]] = []
    best: list[float] = []
    tried = set()
    for shape in candidates:
        schedule = schedule_of(shape, budget, sigmas, "candidate")
        if shape.whole and schedule.has_fractions:  # the budget cannot be met with whole steps placed like this
            continue
        if (schedule.budgets, schedule.mode) in tried:  # two leans can come to the same steps
            continue
        tried.add((schedule.budgets, schedule.mode))
        candidate, handle = accelerated(model, schedule)
        values: list[float] = []
        for job, reference in zip(jobs, references, strict=True):
            values.append(psnr(reference, sample(candidate, job)[0]))
            if best and mean(values) < mean(best[: len(values)]) - HOPELESS:
                break
        if len(values) == len(jobs):
            best = max(best, values, key=lambda found: mean(found) if found else float("-inf"))
            rows.append({"shape": shape, "psnr": spread(values), "share": handle.last.computed_share})
            by_cfg = ", ".join(f"cfg {cfg:g}: {part:.2f}" for cfg, part in means_by_cfg(jobs, values).items())
            print(f"{budget}  {shape.title:70} {mean(values):6.2f} dB  ({by_cfg})", flush=True)
    return sorted(rows, key=lambda row: -row["psnr"]["mean"]), len(tried)


def means_by_cfg(jobs: list[Any], values: list[float]) -> dict[float, float]:
    pairs = list(zip(jobs, values, strict=True))
    return {cfg: mean([v for job, v in pairs if job.cfg == cfg]) for cfg in sorted({job.cfg for job in jobs})}


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best row; whole steps unless token steps are clearly better, since those need a store per block."""
    whole = next((row for row in rows if row["shape"].whole), None)
    if whole is not None and rows[0]["psnr"]["mean"] - whole["psnr"]["mean"] < WORTH_A_STORE:
        return whole
    return rows[0]


def provenance(row: dict[str, Any], measured: dict[str, Any], jobs: list[Any], tried: int) -> dict[str, Any]:
    """What a schedule says of itself. measured: see `environment`; tried: how many shapes the row is the best of."""
    figures = row["psnr"]
    return {
        "found": f"by hand: the best of {tried} drawn shapes tried; not searched",
        "shape": row["shape"].title,
        "on": "the embedded tiny Wan model (2.8 M parameters, 384 tokens), no other model",
        "sampling": f"{jobs[0].steps} steps, {jobs[0].sampler}, {jobs[0].scheduler}, shift 8",
        "figures": {
            "psnr_db_by_cfg": {f"{cfg:g}": round(v, 2) for cfg, v in means_by_cfg(jobs, figures["all"]).items()},
            "psnr_db_range": [round(figures["min"], 2), round(figures["max"], 2)],
            "runs": len(jobs),
            "tokens_computed": round(row["share"], 4),
        },
        "comfyui": measured["comfyui"],
        "command": measured["command"],
        "date": datetime.date.today().isoformat(),
    }


def write_schedules(chosen: dict[float, tuple[dict, dict]], sigmas: Sequence[float]) -> None:
    from astraea.schedules import bundled_folder, save

    for budget, (row, found) in chosen.items():
        for family in ("wan", "any"):
            note = {} if family == "wan" else {"transferred": "made for Wan, not tried on other families"}
            name = f"{family}-{budget:.2f}"
            schedule = schedule_of(row["shape"], budget, sigmas, name, family=family, provenance={**found, **note})
            save(schedule, bundled_folder(), overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--cfg", type=float, nargs="+", default=[3.0, 6.0])
    parser.add_argument("--whole-steps-only", action="store_true", help="leave token rhythms out")
    parser.add_argument("--tag", default="", help="added to the result's name")
    parser.add_argument(
        "--write", action="store_true", help="write the best shape of every budget to schedules/bundled"
    )
    args = parser.parse_args()
    host = host_process.start(args, cpu=True)
    from quality_candidates import jobs as quality_jobs

    model = load_tiny()
    by_cfg = [quality_jobs(cfg, args.steps, args.pairs, args.seed) for cfg in args.cfg]
    jobs = [job for pair in zip(*by_cfg, strict=True) for job in pair]
    candidates = [shape for shape in shapes() if shape.whole or not args.whole_steps_only]
    references = [sample(model, job)[0] for job in jobs]
    result: dict[str, Any] = {"benchmark": "find_shapes", "environment": environment(host, args, "cpu"), "budgets": {}}
    chosen = {}
    for budget in args.budgets:
        rows, tried = try_all(model, budget, jobs, references, candidates)
        best = choose(rows)
        chosen[budget] = (best, provenance(best, result["environment"], jobs, tried))
        print(f"{budget}: {best['shape'].title}", flush=True)
        result["budgets"][str(budget)] = [{**row, "shape": row["shape"].title} for row in rows]
        write_json(args.out / f"shapes-{host.version}{args.tag}.json", result)
    if args.write:
        write_schedules(chosen, sigmas_of(model, args.steps)[:-1])


if __name__ == "__main__":
    main()
