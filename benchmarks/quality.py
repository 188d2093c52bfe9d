"""Quality against time on the embedded model, in the real ComfyUI: bundled schedules, controls, EasyCache.

python benchmarks/quality.py [--comfyui TREE] [--quick]

Partial results are saved after each block of candidates; the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import host_process
from environment import digest, environment, read_json, spread, write_json
from harness import TINY_MODEL, load_tiny, print_table, psnr, sample, sigmas_of
from quality_derived import derive
from tables import quality_markdown

BLOCK = 8  # candidates that share the dense runs of each pair


@dataclass
class Progress:
    """The result so far and where it is kept."""

    path: Path
    result: dict[str, Any]

    def done(self, cfg: float, fingerprint: str) -> bool:
        return any(row["cfg"] == cfg and row["fingerprint"] == fingerprint for row in self.result["rows"])

    def save(self, rows: list[dict[str, Any]]) -> None:
        self.result["rows"] += rows
        self.result["derived"] = derive(self.result["rows"])
        write_json(self.path, self.result)
        self.path.with_suffix(".md").write_text(quality_markdown(self.result), "utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="two pairs, few candidates, guidance 3 only")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, nargs="+", default=[3.0, 6.0])
    parser.add_argument("--pairs", type=int, default=16, help="prompt–seed pairs")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each pair, the fastest of which counts")
    parser.add_argument("--restart", action="store_true", help="forget saved partial results")
    args = parser.parse_args()
    if args.quick:
        args.cfg, args.pairs = args.cfg[:1], 2
    return args


def open_progress(args: argparse.Namespace, host: Any) -> Progress:
    """Continues a result of the same code, model and settings; else begins anew."""
    path = args.out / f"quality-{host.version}{'-quick' if args.quick else ''}.json"
    settings = {
        "model": digest([TINY_MODEL.read_bytes()]),
        "sampler": "euler, simple",
        "steps": args.steps,
        "cfg": args.cfg,
        "pairs": args.pairs,
        "repeats": args.repeats,
        "latents": "6x16x16",
        "tokens": 384,
    }
    fresh = {"benchmark": "quality", "environment": environment(host, args, "cpu"), "settings": settings}
    saved = None if args.restart else read_json(path)
    if saved is not None and _same(saved, fresh):
        print(f"continuing with {len(saved['rows'])} rows from {path.name}")
        return Progress(path, saved)
    return Progress(path, {**fresh, "rows": [], "derived": []})


def _same(saved: dict[str, Any], fresh: dict[str, Any]) -> bool:
    keys = ("pack_code", "torch", "comfyui", "threads", "seed", "cpu")
    same = all(saved["environment"].get(key) == fresh["environment"][key] for key in keys)
    return same and saved["settings"] == fresh["settings"]


def speedup(dense: list[float], own: list[float]) -> dict[str, Any]:
    """Paired ratios of seconds and, as `total`, the ratio of all pairs' seconds together.

    PSNR is a mean over the pairs; the total is the speed that goes with it where runs differ in what they compute.
    """
    ratios = [d / o for d, o in zip(dense, own, strict=True)]
    return {"total": sum(dense) / sum(own), **spread(ratios)}


def in_turn(models: list[Any], job: Any, repeats: int) -> tuple[list[Any], list[float]]:
    """Every model's latents and the least of its seconds, the models taking turns.

    What else a machine does can only make a run slower, so the fastest says most of what it costs.
    """
    rounds = [[sample(model, job) for model in models] for _ in range(repeats)]
    return [output for output, _ in rounds[-1]], [min(run[1] for run in runs) for runs in zip(*rounds, strict=True)]


def measure_block(
    model: Any, jobs: list[Any], block: list[Any], references: list[Any], repeats: int
) -> list[dict[str, Any]]:
    """Every pair: dense, then the block's candidates; rows with one figure per pair."""
    built = [candidate.build(model) for candidate in block]
    figures: list[dict[str, list[float]]] = [
        {"psnr": [], "dense": [], "own": [], "share": [], "ideal": []} for _ in block
    ]
    notes: list[set[str]] = [set() for _ in block]
    for job, reference in zip(jobs, references, strict=True):
        (dense, *outputs), (dense_seconds, *seconds) = in_turn([model, *(made for made, _ in built)], job, repeats)
        if not dense.equal(reference):
            raise SystemExit("Two dense runs of the same seed differ: the comparison would mean nothing.")
        measured = zip(built, outputs, seconds, figures, notes, strict=True)
        for (_, handle), output, own_seconds, figure, note in measured:
            figure["psnr"].append(psnr(reference, output))
            figure["dense"].append(dense_seconds)
            figure["own"].append(own_seconds)
            figure["share"].append(handle.last.computed_share)
            figure["ideal"].append(handle.last.ideal_speedup)
            note.update(handle.last.notes)
    return [
        {
            "cfg": jobs[0].cfg,
            "name": candidate.name,
            "kind": candidate.kind,
            "budget": candidate.budget,
            "about": candidate.about,
            "fingerprint": candidate.fingerprint,
            "psnr": spread(figure["psnr"]),
            "speedup": speedup(figure["dense"], figure["own"]),
            "computed_share": statistics.fmean(figure["share"]),
            "ideal_speedup": statistics.fmean(figure["ideal"]),
            "notes": sorted(note),
        }
        for candidate, figure, note in zip(block, figures, notes, strict=True)
    ]


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(
            f"cfg {row['cfg']:g}  {row['name']:34} {row['psnr']['mean']:6.2f} dB "
            f"({row['psnr']['min']:.1f}...{row['psnr']['max']:.1f})  {row['speedup']['total']:.2f}x  "
            f"{row['computed_share']:5.1%} of tokens"
        )
        for note in row["notes"]:
            print(f"    {note}")


def run(args: argparse.Namespace, progress: Progress) -> None:
    from quality_candidates import all_candidates, jobs, main_candidates

    model = load_tiny()
    candidates = all_candidates(sigmas_of(model, args.steps)[:-1], args.quick)
    for cfg in args.cfg:
        pairs = jobs(cfg, args.steps, args.pairs, args.seed)
        listed = candidates if cfg == args.cfg[0] else main_candidates(candidates)
        open_ones = [c for c in listed if not progress.done(cfg, c.fingerprint)]
        if not open_ones:
            continue
        sample(model, pairs[0])  # warms up; what is compared comes after
        references = [sample(model, job)[0] for job in pairs]
        for start in range(0, len(open_ones), BLOCK):
            began = time.perf_counter()
            rows = measure_block(model, pairs, open_ones[start : start + BLOCK], references, args.repeats)
            progress.save(rows)
            show(rows)
            left = len(open_ones) - start - len(rows)
            print(f"    {time.perf_counter() - began:.0f} s, {left} candidates left at cfg {cfg:g}", flush=True)


def main() -> None:
    args = arguments()
    host = host_process.start(args, cpu=True)
    progress = open_progress(args, host)
    run(args, progress)
    print()
    header = ["", "dB", "speed-up", "- EasyCache", "- paper", "- best control", "that control"]
    keys = ("psnr", "speedup", "minus_easycache", "minus_paper", "minus_best_control", "best_control")
    lines = [
        [f"cfg {r['cfg']:g} {r['name']}", *("" if r[key] is None else r[key] for key in keys)]
        for r in progress.result["derived"]
    ]
    print_table(header, lines)
    print(f"\nwritten: {progress.path} and .md")


if __name__ == "__main__":
    main()
