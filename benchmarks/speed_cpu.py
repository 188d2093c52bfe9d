"""Speed on the CPU in the real ComfyUI: the cost of a token step against a dense step and against the ideal.

python benchmarks/speed_cpu.py [--comfyui TREE] [--pairs 5] [--quick]

Two Wan-format models at 2,304 tokens, cond and uncond in one call. Token steps: each call is computed densely as well,
right before or after. Step-skipping rhythms: dense and accelerated runs alternate.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.host.harness import Job, accelerated, load_tiny, paired, sample, sigmas_of, with_dense_beside
from lib.host.phases import profile
from lib.host.random_wan import WanSize, load_random_wan, random_context
from lib.host.tables import profile_table, speed_cpu_markdown
from lib.results import spread, write_json

SHAPE = (1, 16, 9, 32, 32)
BIG = WanSize(dim=512, feed_forward=2048, layers=6)
BUDGETS = (0.5, 0.4)
RHYTHMS = ((0.0, 1.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Subject:
    """A model to measure, and the length of its context."""

    label: str
    model: Any
    context: int

    def job(self, args: argparse.Namespace) -> Job:
        positive, negative = (random_context(self.context, args.seed + n) for n in range(2))
        return Job(SHAPE, positive, negative, args.seed, args.steps, cfg=3.0)

    def cost(self) -> Any:
        """The cost model of one block at this context length."""
        from astraea.engine.planning.cost import BlockCost

        inner = self.model.get_model_object("diffusion_model")
        tokens = SHAPE[2] * SHAPE[3] * SHAPE[4] // 4
        return BlockCost.of(tokens, inner.dim, inner.ffn_dim, self.context)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=5, help="dense and accelerated runs of each kind (default 5)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one pair, the easy model only")
    args = parser.parse_args()
    args.pairs = 1 if args.quick else args.pairs
    return args


def subjects(quick: bool) -> list[Subject]:
    import torch

    found = [Subject("easy model: dim 128, ffn 512, 8 blocks, 1 head", load_tiny(), 24)]
    if not quick:
        found.append(Subject(f"random weights: {BIG.label()}", load_random_wan(BIG, torch.float32), 24))
    return found


def constant(budget: float, sigmas: Sequence[float]) -> Any:
    """A full first step, all others exactly at the budget: on its own grid a schedule is not changed."""
    from astraea.schedules import Schedule

    budgets = [1.0] + [budget] * (len(sigmas) - 2)
    return Schedule(f"constant {budget}", tuple(zip(sigmas[:-1], budgets, strict=True)))


def repeating(pattern: Sequence[float], sigmas: Sequence[float]) -> Any:
    """Two full steps, then the repeated pattern, whatever the last step becomes."""
    from astraea.schedules import Schedule

    budgets = [1.0, 1.0] + [pattern[i % len(pattern)] for i in range(len(sigmas) - 3)]
    name = "whole steps " + " ".join(f"{b:g}" for b in pattern)
    return Schedule(name, tuple(zip(sigmas[:-1], budgets, strict=True)))


def measure_tokens(subject: Subject, args: argparse.Namespace, budget: float) -> dict[str, Any]:
    """Dense step time over token step time, one ratio per step, and the ideal for the number of tokens computed."""
    base, times = with_dense_beside(subject.model)
    model, handle = accelerated(base, constant(budget, sigmas_of(base, args.steps)))
    pairs, calls = [], []
    for _ in range(args.pairs):
        times.clear()
        sample(model, subject.job(args))
        made = list(zip(times, handle.last.calls, strict=True))
        pairs += [seconds for seconds, call in made if call.kind == "token"]
        calls += [call for _, call in made if call.kind == "token"]
    ideal = 1.0 / statistics.fmean(subject.cost().relative_cost(call.computed / call.tokens) for call in calls)
    return _row(f"token step at {budget}", [d / t for d, t in pairs], ideal, handle.last) | {
        "dense_step_seconds": spread([d for d, _ in pairs]),
        "token_step_seconds": spread([t for _, t in pairs]),
    }


def measure_rhythm(subject: Subject, args: argparse.Namespace, pattern: Sequence[float]) -> dict[str, Any]:
    """Dense run time over accelerated run time; the ideal is steps over computed steps."""
    job = subject.job(args)
    schedule = repeating(pattern, sigmas_of(subject.model, args.steps))
    model, handle = accelerated(subject.model, schedule)
    pairs = paired(lambda: sample(subject.model, job)[1], lambda: sample(model, job)[1], args.pairs)
    return _row(f"{schedule.name}, run", [d / t for d, t in pairs], 1.0 / schedule.mean_budget, handle.last)


def _row(name: str, ratios: list[float], ideal: float, report: Any) -> dict[str, Any]:
    return {
        "name": name,
        "speedup": spread(ratios),
        "ideal": ideal,
        "share_of_ideal": statistics.median(ratios) / ideal,
        "calls": report.counts(),
        "notes": report.notes,
    }


def main() -> None:
    args = arguments()
    host = process.start(args, cpu=True)
    import torch

    result = {
        "benchmark": "speed_cpu",
        "environment": environment(host, args, "cpu"),
        "settings": {"latents": list(SHAPE[2:]), "tokens": 2304, "steps": args.steps, "pairs": args.pairs},
        "subjects": [],
    }
    path = args.out / f"speed_cpu-{host.version}{'-quick' if args.quick else ''}.json"
    for subject in subjects(args.quick):
        print(f"\n{subject.label}", flush=True)
        sample(subject.model, subject.job(args))
        entry: dict[str, Any] = {"label": subject.label, "context": subject.context, "rows": []}
        result["subjects"].append(entry)
        for measure, what in [(measure_tokens, b) for b in BUDGETS] + [(measure_rhythm, r) for r in RHYTHMS]:
            row = measure(subject, args, what)
            entry["rows"].append(row)
            figures = row["speedup"]
            print(
                f"{row['name']:28} {figures['median']:.2f}x ({figures['min']:.2f}...{figures['max']:.2f}), "
                f"ideal {row['ideal']:.2f}, reached {row['share_of_ideal']:.1%}",
                flush=True,
            )
        schedule = constant(BUDGETS[0], sigmas_of(subject.model, args.steps))
        entry["profile"] = profile(subject.model, torch.device("cpu"), subject.job(args), schedule, BUDGETS[0])
        print(profile_table(entry["profile"]), flush=True)
        write_json(path, result)
        path.with_suffix(".md").write_text(speed_cpu_markdown(result), "utf-8")
    print(f"\nwritten: {path} and .md")


if __name__ == "__main__":
    main()
