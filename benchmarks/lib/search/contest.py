"""The rows of `search.py`: each contestant's schedule is run on the held-out pairs and recorded."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..results import change_json, read_json
from .cases import bench_for, calibration_pairs, held_out_pairs, psnr_of

FIRST_PAIRS = 3
ROW_KEY = ("contestant", "budget", "seed")


class Contest:
    """Rows by contestant and budget, each written at once; several processes may add to one file."""

    def __init__(self, args: argparse.Namespace, model: Any, testbed: Any, made_with: dict[str, Any], path: Path):
        from astraea.search.evaluation.evaluator import Evaluator
        from astraea.search.evaluation.run_log import RunLog

        self.args, self.model, self.testbed, self.path = args, model, testbed, path
        self.made_with = made_with
        names = ("steps", "cfg", "sampler", "scheduler")
        self.sampling_config = {name: getattr(args, name) for name in names}
        calibration = calibration_pairs(testbed, args.calibrated_from)
        self.bench = bench_for(model, testbed, self.sampling_config, calibration)
        self.held_out_pairs = held_out_pairs(testbed, args.held_out, args.held_out_from)
        held_out = bench_for(model, testbed, self.sampling_config, self.held_out_pairs)
        run_log = RunLog(args.run_log / f"{held_out.setting.identity}-held-out.jsonl", held_out.setting.identity)
        self.held_out = Evaluator(held_out, run_log)

    @property
    def result(self) -> dict[str, Any]:
        return read_json(self.path) or {"rows": []}

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row, or replaces that of the same contestant, budget and search seed."""
        key = [row[name] for name in ROW_KEY]

        def change(result: dict[str, Any]) -> None:
            others = [other for other in result.get("rows", []) if [other[name] for name in ROW_KEY] != key]
            result |= self.made_with | {"rows": [*others, {**row, "measured": self.measured}]}

        change_json(self.path, change)

    def drop(self, key: list[Any]) -> None:
        """Removes the row of an earlier measurement, on other pairs."""

        def change(result: dict[str, Any]) -> None:
            result["rows"] = [row for row in result.get("rows", []) if [row[name] for name in ROW_KEY] != key]

        change_json(self.path, change)

    def put(self, part: str, rows: list[dict[str, Any]]) -> None:
        """Writes a part that is measured as a whole."""

        def change(result: dict[str, Any]) -> None:
            result |= self.made_with | {part: rows, "measured": result.get("measured", {}) | {part: self.measured}}

        change_json(self.path, change)

    @property
    def measured(self) -> dict[str, Any]:
        return {name: self.made_with["environment"][name] for name in ("date", "commit", "pack_code")}

    def take(self, budget: float, offers: Iterable[Any], hopeless: float = math.inf) -> None:
        """Runs offers on the held-out pairs, and drops those that are `hopeless` dB behind on the first of them."""
        best: list[float] = []
        for offer in offers:
            first = self.held_out.evaluate([offer.genome], range(min(FIRST_PAIRS, len(self.held_out_pairs))))[0].score
            if best and first < max(best) - hopeless:
                print(f"{budget:g}  {offer.contestant:34} is {max(best) - first:.1f} dB behind: dropped", flush=True)
                self.drop([offer.contestant, budget, offer.seed])
                continue
            best.append(first)
            evaluation = self.held_out.evaluate([offer.genome], range(self.held_out.setting.cases))[0]
            row = {
                "contestant": offer.contestant,
                "budget": budget,
                "seed": offer.seed,
                "spent": round(offer.spent, 2),
                "clock": None if offer.clock is None else round(offer.clock, 1),
                "mean_budget": round(sum(offer.genome.budgets) / len(offer.genome.budgets), 4),
                "psnr_calibration": offer.psnr,
                "psnr": evaluation.score,
                "psnr_all": [round(psnr_of(loss), 3) for loss in evaluation.losses],
                "held_out_seeds_from": self.args.held_out_from,
                "budgets": list(offer.genome.budgets),
                "mode": offer.genome.mode,
                "forecast": vars(offer.genome.forecast),
                "speedup": offer.speedup,
            }
            self.add(row)
            print(
                f"{budget:g}  {offer.contestant:34} seed {offer.seed}  {evaluation.score:6.2f} dB held out", flush=True
            )
