"""Quality against time and cost on the testbeds, in the real ComfyUI: bundled schedules, controls, step caches.

python benchmarks/quality.py --table easy-cfg3 [more tables, or "all"] [--comfyui TREE] [--quick]

One JSON and one table for each. Results are saved after each block of candidates; the same command resumes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.host import process
from lib.host.environment import digest, environment
from lib.host.harness import load_tiny, sample, sigmas_of
from lib.markdown import table as markdown_table
from lib.quality.derived import derive
from lib.quality.settings import TABLES, Table
from lib.quality.tables import quality_markdown
from lib.results import read_json, spread, write_json

TIMED_BLOCK, BLOCK = 8, 16  # candidates that share the dense runs of each pair
QUICK_CANDIDATES = 12
# Pairs → dB: a control that is further below the bundled schedule after so many pairs is not measured on more.
HOPELESS = {2: 8.0, 4: 4.0}
# Controls are compared by cost; their stated speed is from dense runs of the first pairs.
PAIRS_FOR_SPEED = 4


@dataclass
class Progress:
    """The result so far and its file."""

    path: Path
    result: dict[str, Any]

    def done(self, candidate: Any) -> bool:
        key = [candidate.name, candidate.fingerprint]
        return any([row["name"], row["fingerprint"]] == key for row in self.result["rows"])

    def keep_only(self, candidates: list[Any]) -> None:
        """Drops rows of former candidates, and of those that have changed under the same name."""
        known = {(candidate.name, candidate.fingerprint) for candidate in candidates}
        self.result["rows"] = [row for row in self.result["rows"] if (row["name"], row["fingerprint"]) in known]

    def save(self, rows: list[dict[str, Any]]) -> None:
        self.result["rows"] += rows
        if "continued" in self.result:
            self.result["continued"][-1]["rows"] += [row["name"] for row in rows]
        self.result["derived"] = derive(self.result["rows"])
        write_json(self.path, self.result)
        self.path.with_suffix(".md").write_text(quality_markdown(self.result), "utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--table", nargs="+", default=["easy-cfg3"], choices=[*TABLES, "all"], metavar="TABLE")
    parser.add_argument("--list", action="store_true", help="name all tables and stop")
    parser.add_argument("--quick", action="store_true", help="two pairs, few candidates")
    parser.add_argument("--pairs", type=int, help="prompt–seed pairs (by default as many as the table names)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each timed pair; the fastest counts")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only rows whose names begin so, and bundled ones")
    parser.add_argument(
        "--again",
        nargs="+",
        metavar="NAME",
        help="measure rows whose names begin so again; keep all others, even if measured by other code",
    )
    parser.add_argument("--restart", action="store_true", help="forget saved partial results")
    args = parser.parse_args()
    if args.list:
        parser.exit(message="\n".join(TABLES) + "\n")
    if args.quick:
        args.pairs, args.repeats = 2, 1
    return args


def open_progress(args: argparse.Namespace, host: Any, table: Table, testbed: Any) -> Progress:
    """Resumes a result of the same code, model and settings, or starts a new one."""
    path = args.out / f"quality-{table.name}-{host.version}{'-quick' if args.quick else ''}.json"
    settings = {
        "table": table.name,
        "testbed": testbed.name,
        "model": digest([testbed.checkpoint.read_bytes()]),
        "sampler": f"{table.sampler}, {table.scheduler}",
        "steps": table.steps,
        "cfg": table.cfg,
        "pairs": args.pairs or table.pairs,
        "repeats": args.repeats,
        "latents": "x".join(str(size) for size in testbed.latent_shape[2:]),
        "tokens": testbed.tokens,
    }
    fresh = {"benchmark": "quality", "environment": environment(host, args, "cpu"), "settings": settings}
    saved = None if args.restart else read_json(path)
    if saved is not None and _same(saved, fresh, whatever_code=bool(args.again)):
        saved["rows"] = [row for row in saved["rows"] if not row["name"].startswith(tuple(args.again or [" "]))]
        print(f"continuing with {len(saved['rows'])} rows from {path.name}")
        when = {key: fresh["environment"][key] for key in ("date", "commit", "command")}
        saved["continued"] = [*saved.get("continued", []), {**when, "rows": []}]
        return Progress(path, saved)
    return Progress(path, {**fresh, "rows": [], "derived": []})


def _same(saved: dict[str, Any], fresh: dict[str, Any], *, whatever_code: bool) -> bool:
    keys = ["torch", "comfyui", "threads", "seed", "cpu", *([] if whatever_code else ["pack_code"])]
    same = all(saved["environment"].get(key) == fresh["environment"][key] for key in keys)
    return same and saved["settings"] == fresh["settings"]


def speedup(dense: list[float], own: list[float]) -> dict[str, Any]:
    """Paired ratios of seconds and, as `total`, the ratio of all those pairs' seconds together.

    dense: of all pairs, or of the first ones. PSNR is a mean over the pairs; the total is the matching speed if runs
    differ in the steps they compute.
    """
    pairs = list(zip(dense, own, strict=False))
    return {"total": sum(dense) / sum(o for _, o in pairs), **spread([d / o for d, o in pairs])}


def in_turn(runs: list[Any], job: Any, repeats: int) -> tuple[list[Any], list[float]]:
    """Latents and minimum seconds of each `(model, variant)`, over several rounds in which all take turns.

    Other load only makes a run slower, so the minimum is the best estimate of its cost.
    """
    rounds = []
    for _ in range(repeats):
        results = []
        for model, variant in runs:
            with variant.applied():
                results.append(sample(model, job))
        rounds.append(results)
    return [output for output, _ in rounds[-1]], [min(run[1] for run in own) for own in zip(*rounds, strict=True)]


def hopeless(candidate: Any, figures: dict[str, list[float]], bars: dict[float, list[float]]) -> bool:
    """True if a control is so far below the bundled schedule that more pairs would not change the conclusion."""
    own, bar = figures["psnr"], bars.get(candidate.budget)
    if candidate.kind != "control" or not bar or len(own) not in HOPELESS:
        return False
    return statistics.fmean(own) < statistics.fmean(bar[: len(own)]) - HOPELESS[len(own)]


def bars_of(rows: list[dict[str, Any]]) -> dict[float, list[float]]:
    """Budget → PSNR of every pair with the bundled schedule."""
    return {row["budget"]: row["psnr"]["all"] for row in rows if row["kind"] == "default"}


class References:
    """The dense run of every pair: run once, and compared bit by bit if it is run again."""

    def __init__(self, model: Any, jobs: list[Any]):
        self.model, self.jobs = model, jobs
        self._known: dict[int, Any] = {}

    def of(self, pair: int) -> Any:
        if pair not in self._known:
            self._known[pair], _ = sample(self.model, self.jobs[pair])
        return self._known[pair]

    def check(self, pair: int, again: Any) -> None:
        if not self._known.setdefault(pair, again).equal(again):
            raise SystemExit("Two dense runs of the same seed differ: the comparison would mean nothing.")


def measure_block(
    references: References, block: list[Any], repeats: int, bars: dict[float, list[float]]
) -> list[dict[str, Any]]:
    """Runs each pair dense and with the block's candidates. Rows have one figure per pair, fewer if hopeless."""
    from lib.quality.metrics import METRICS, SIZES, compare, costs
    from lib.quality.variants import AS_SHIPPED

    model = references.model
    built = [candidate.build(model) for candidate in block]
    figures: list[dict[str, list[float]]] = [
        {name: [] for name in (*METRICS, "dense", "own", "share", *SIZES)} for _ in block
    ]
    notes: list[set[str]] = [set() for _ in block]
    live = list(range(len(block)))
    for number, job in enumerate(references.jobs):
        live = [i for i in live if not hopeless(block[i], figures[i], bars)]
        runs = [(built[i][0], block[i].variant) for i in live]
        dense_seconds = []
        if block[0].timed or number < PAIRS_FOR_SPEED:
            (dense, *outputs), (seconds, *own) = in_turn([(model, AS_SHIPPED), *runs], job, repeats)
            references.check(number, dense)
            dense_seconds = [seconds]
        else:
            outputs, own = in_turn(runs, job, 1)
        for i, output, own_seconds in zip(live, outputs, own, strict=True):
            report = built[i][1].last
            found = {**compare(output, references.of(number)), **costs(report), "share": report.computed_share}
            for name, value in found.items():
                figures[i][name].append(value)
            figures[i]["own"].append(own_seconds)
            figures[i]["dense"] += dense_seconds
            notes[i].update(report.notes)
    return [
        {
            "name": candidate.name,
            "family": candidate.family,
            "kind": candidate.kind,
            "setting": candidate.setting,
            "budget": candidate.budget,
            "about": candidate.about,
            "fingerprint": candidate.fingerprint,
            "pairs": len(figure["psnr"]),
            **{name: spread(figure[name]) for name in METRICS},
            "speedup": speedup(figure["dense"], figure["own"]),
            "computed_share": statistics.fmean(figure["share"]),
            "cost": {name: statistics.fmean(figure[name]) for name in SIZES},
            "notes": sorted(note),
        }
        for candidate, figure, note in zip(block, figures, notes, strict=True)
    ]


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(
            f"{row['name']:40} {row['psnr']['mean']:6.2f} dB ({row['psnr']['min']:.1f}...{row['psnr']['max']:.1f})  "
            f"temporal {row['temporal_psnr']['mean']:6.2f} dB  {row['speedup']['total']:.2f}x  "
            f"{row['computed_share']:5.1%} of tokens"
        )
        for note in row["notes"]:
            print(f"    {note}")


def blocks_of(listed: list[Any]) -> list[list[Any]]:
    """Blocks of timed and of other candidates, so that the others need not be repeated."""
    timed, others = [c for c in listed if c.timed], [c for c in listed if not c.timed]
    blocks = [timed[start : start + TIMED_BLOCK] for start in range(0, len(timed), TIMED_BLOCK)]
    return blocks + [others[start : start + BLOCK] for start in range(0, len(others), BLOCK)]


def measure_table(args: argparse.Namespace, host: Any, table: Table) -> Progress:
    from lib.quality.candidates import candidates, jobs

    from astraea.tiny.training.testbeds import TESTBEDS

    testbed = TESTBEDS[table.testbed]
    progress = open_progress(args, host, table, testbed)
    model = load_tiny(testbed.checkpoint)
    listed = candidates(table, sigmas_of(model, table.steps, table.scheduler)[:-1])
    if args.quick:
        listed = listed[:: max(1, len(listed) // QUICK_CANDIDATES)]
    progress.keep_only(listed)
    if args.only:
        listed = [c for c in listed if c.kind == "default" or c.name.startswith(tuple(args.only))]
    listed = [candidate for candidate in listed if not progress.done(candidate)]
    if not listed:
        return progress
    references = References(model, jobs(testbed, table, args.pairs or table.pairs, args.seed))
    sample(model, references.jobs[0])  # warms up
    left = len(listed)
    for block in blocks_of(listed):
        began = time.perf_counter()
        rows = measure_block(references, block, args.repeats if block[0].timed else 1, bars_of(progress.result["rows"]))
        progress.save(rows)
        show(rows)
        left -= len(block)
        print(f"    {time.perf_counter() - began:.0f} s, {left} candidates left in {table.name}", flush=True)
    return progress


def show_derived(progress: Progress) -> None:
    header = ["", "dB", "speed-up", "− EasyCache", "− paper", "− best control", "that control"]
    keys = ("name", "psnr", "speedup", "minus_easycache", "minus_paper 1.3B")
    keys += ("minus_best_control 1.3B", "best_control 1.3B")
    print("\n" + markdown_table(header, [[row[key] for key in keys] for row in progress.result["derived"]]))
    print(f"written: {progress.path} and .md\n", flush=True)


def main() -> None:
    args = arguments()
    host = process.start(args, cpu=True)
    names = list(TABLES) if "all" in args.table else args.table
    for name in names:
        show_derived(measure_table(args, host, TABLES[name]))


if __name__ == "__main__":
    main()
