"""Quality of sparse attention on the test models, in the real ComfyUI: clips by density and method, and single heads.

python benchmarks/sparse_quality.py [--setting ltx …] [--models "hard steps" …] [--part points heads kept] [--pairs 8]

Tiles are as small as the test models' frames ask for: a frame holds as many as one of a real model at 480p. One JSON;
a row is saved when it is done, and the same command goes on with the next: an hour and a half on one core.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.quality.settings import SETTINGS
from lib.results import change_json, read_json, spread
from lib.sparse.tables import sparse_markdown

ROWS = {  # setting: test models
    "ltx": ("easy steps", "hard steps"),
    "four": ("easy steps", "hard steps"),
    "scail": ("easy steps", "hard steps"),
    "h3": ("easy guidance", "hard guidance", "real"),
}
TILES = {"easy": (16, 8), "hard": (32, 16), "real": (32, 16)}  # queries and keys of a tile, by testbed
DENSITIES = (0.5, 0.3)
ALL_METHODS = ("ltx", "four")  # settings with every method; the others with those that ship, and random tiles
BUDGET = 0.5
FIGURES = ("psnr", "temporal_psnr", "error", "share", "attention", "seconds")
PARTS = ("points", "heads", "kept")  # whole clips, single heads, what stays dense
DENSE_STARTS, DENSE_LAYERS = (0.1, 0.25, 0.5), (0, 2)


@dataclass(frozen=True)
class Contestant:
    """A way to sample. plan: of sparse attention, None: none; budget: of Astraea Accelerate, None: none.

    around: the context in which its runs are made.
    """

    method: str
    density: float
    plan: dict[str, Any] | None
    budget: float | None = None
    around: Any = nullcontext
    arguments: tuple = ()

    def context(self) -> AbstractContextManager[Any]:
        return self.around(*self.arguments)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--setting", nargs="+", choices=ROWS, default=list(ROWS), metavar="SETTING")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="only these")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pairs", type=int, default=8, help="prompt–seed pairs; fewer for a trial")
    parser.add_argument("--keep", action="store_true", help="keep rows that were measured with other code, too")
    return parser.parse_args()


def contestants(setting: str) -> Iterator[Contestant]:
    from lib.sparse.controls import MASKS, as_control, choose_only, with_method

    from astraea.engine.sparse.candidates import CANDIDATES
    from astraea.engine.sparse.plan import AUTO, MEAN, RAINFUSION, ROUTING

    for density in DENSITIES:
        yield Contestant(AUTO, density, {})
        yield Contestant(ROUTING, density, {"choice": ROUTING})
        yield Contestant(RAINFUSION, density, {"choice": RAINFUSION})
        for name in MASKS if setting in ALL_METHODS else list(MASKS)[:1]:
            yield Contestant(name, density, {}, around=as_control, arguments=(name,))
        if setting in ALL_METHODS:
            for candidate in CANDIDATES[1:]:
                chosen = choose_only(candidate.name)
                yield Contestant(candidate.name, density, {}, around=with_method, arguments=(chosen,))
            yield Contestant("auto, rest as mean", density, {"rest": MEAN})
        yield Contestant("auto with Accelerate", density, {}, budget=BUDGET)
    yield Contestant("Accelerate alone", 1.0, None, budget=BUDGET)


def kept_dense() -> Iterator[Contestant]:
    """More dense steps or layers, at the default density and without them at a higher one."""
    from astraea.engine.sparse.plan import AUTO

    for share in DENSE_STARTS:
        yield Contestant(f"dense start {share:g}", 0.3, {"dense_start": share})
    for layers in DENSE_LAYERS:
        yield Contestant(f"{layers} dense layers", 0.3, {"dense_layers": layers})
    for density in (0.4, 0.5, 0.65):
        yield Contestant(AUTO, density, {})


def measure(row: Any, ways: Iterable[Contestant], seed: int, count: int) -> list[dict[str, Any]]:
    """Run each pair dense and in every way, and compare."""
    from lib.quality.metrics import compare
    from lib.quality.models import pairs_of, run

    jobs = pairs_of(row.testbed, count, seed)
    dense = [run(row.parts, row.setting, job) for job in jobs]
    points = []
    for contestant in ways:
        found: dict[str, list[float]] = {name: [] for name in FIGURES}
        with contestant.context():
            parts, handle = sparse_parts(row, contestant)
            for job, (wanted, _) in zip(jobs, dense, strict=True):
                own, seconds = run(parts, row.setting, job)
                compared = compare(own, wanted)
                report = (handle.last.sparse or {}) if handle is not None and handle.last is not None else {}
                figures = {**compared, "error": report.get("error"), "share": report.get("computed_share", 1.0)}
                figures["attention"] = computed_attention(report)
                for name, values in found.items():
                    values.append({**figures, "seconds": seconds}[name])
        point: dict[str, Any] = {"method": contestant.method, "density": contestant.density}
        point |= {name: spread(found[name]) for name in ("psnr", "temporal_psnr")}
        point["error"] = found["error"] if None not in found["error"] else None
        point["share"] = statistics.fmean(found["share"])
        point["attention"] = statistics.fmean(found["attention"])
        point["seconds"] = statistics.fmean(found["seconds"])
        points.append(point)
        print(f"  {point['method']:<28} {point['density']:.2f}  {point['psnr']['mean']:.1f} dB", flush=True)
    return points


def computed_attention(report: dict[str, Any]) -> float:
    """Share of the whole run's attention that was computed, by its sparse figures."""
    layers, steps = report.get("layers", 0), report.get("steps", 0)
    if not layers or not steps:
        return 1.0
    sparse = report["sparse_layers"] / layers * report["sparse_steps"] / steps
    return 1.0 - sparse * (1.0 - report["computed_share"])


def sparse_parts(row: Any, contestant: Contestant) -> tuple[Any, Any]:
    """The row's parts with sparse attention and acceleration as asked for, and the handle of the sparse reports."""
    from lib.host.harness import accelerated

    from astraea.engine.report import ReportHandle
    from astraea.engine.sparse.plan import OWN, SparsePlan
    from astraea.host.sampling.sparse import attend_sparsely

    models, handle = [part.model for part in row.parts], None
    if contestant.plan is not None:
        handle, (query_tile, key_tile) = ReportHandle(), TILES[row.testbed.name]
        plan = SparsePlan(
            **{"density": contestant.density, **contestant.plan},
            min_tokens=0, kernel=OWN, query_tile=query_tile, key_tile=key_tile,
        )  # fmt: skip
        models = [attend_sparsely(model, plan, handle) for model in models]
    if contestant.budget is not None:
        models = [accelerated(model, None, budget=contestant.budget)[0] for model in models]
    return row.with_models(models), handle


def measure_heads(row: Any, seed: int) -> list[dict[str, Any]]:
    """Recall and output error of every candidate, by step and layer, in one dense run."""
    from lib.quality.models import pairs_of, run
    from lib.sparse.heads import watched

    from astraea.engine.sparse.plan import OWN, SparsePlan

    query_tile, key_tile = TILES[row.testbed.name]
    found: list[dict[str, Any]] = []
    tiles = {"query_tile": query_tile, "key_tile": key_tile}
    plan = SparsePlan(min_tokens=0, kernel=OWN, dense_start=0.0, dense_layers=0, **tiles)
    with watched(found, DENSITIES):
        from astraea.engine.report import ReportHandle
        from astraea.host.sampling.sparse import attend_sparsely

        models = [attend_sparsely(part.model, plan, ReportHandle()) for part in row.parts]
        run(row.with_models(models), row.setting, pairs_of(row.testbed, 1, seed)[0])
    return found


def save(path: Path, made: dict[str, Any], row: dict[str, Any]) -> None:
    """Add a row to the result, in place of an earlier one."""
    measured = {key: made[key] for key in ("date", "commit", "pack_code", "threads", "load_at_start")}

    def change(result: dict[str, Any]) -> None:
        old = [r for r in result.get("rows", []) if (r["setting"], r["clips"]) == (row["setting"], row["clips"])]
        others = [r for r in result.get("rows", []) if r not in old]
        merged = {**(old[0] if old else {}), **row, "measured": measured}
        result |= {"benchmark": "sparse_quality", "environment": made, "rows": [*others, merged]}

    change_json(path, change)
    path.with_suffix(".md").write_text(sparse_markdown(read_json(path) or {}), "utf-8")


def is_done(path: Path, setting: str, clips: str, part: str, code: str | None) -> bool:
    """Tell whether a part of a row was measured with this code; None: with any."""
    rows = [r for r in (read_json(path) or {}).get("rows", []) if (r["setting"], r["clips"]) == (setting, clips)]
    return any(part in row and code in (None, row["measured"]["pack_code"]) for row in rows)


def main() -> None:
    args = arguments()
    host = process.start(args, cpu=True)
    path = args.out / f"sparse_quality-{host.version}.json"
    from lib.quality.models import make_row

    for setting in args.setting:
        for clips in ROWS[setting]:
            made = environment(host, args, "cpu")
            if args.models and clips not in args.models:
                continue
            code = None if args.keep else made["pack_code"]
            wanted = [part for part in args.part if not is_done(path, setting, clips, part, code)]
            if not wanted:
                continue
            row = make_row(SETTINGS[setting], clips)
            measured: dict[str, Any] = {"setting": setting, "clips": clips, "sampling": row.setting.described}
            measured |= {"tiles": TILES[row.testbed.name], "pairs": args.pairs}
            print(f"{setting}, {clips}", flush=True)
            if "points" in wanted:
                measured["points"] = measure(row, contestants(setting), args.seed, args.pairs)
            if "heads" in wanted:
                measured["heads"] = measure_heads(row, args.seed)
            if "kept" in wanted:
                measured["kept"] = measure(row, kept_dense(), args.seed, args.pairs)
            save(path, made, measured)
    print(f"written: {path} and .md")


if __name__ == "__main__":
    main()
