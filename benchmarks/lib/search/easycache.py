"""EasyCache at equal time, for `search.py`. Import after the host was started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from astraea.engine.metrics import psnr, value_range
from astraea.schedules import Forecast
from astraea.search.problem.candidate import Genome

from ..host.harness import Job, accelerated, sample
from ..quality.candidates import separate_negative
from ..quality.step_caches import easycache
from .contest import Contest
from .tables import of_contestant

PAIRS = 16
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5)


def easycache_rows(contest: Contest) -> Iterator[dict[str, Any]]:
    """EasyCache at several thresholds and our search's schedules, on held-out pairs, timed in turn with dense runs."""
    testbed, model = contest.testbed, contest.model
    jobs = [
        Job(
            testbed.latent_shape,
            testbed.context(prompt)[None],
            separate_negative(testbed),
            seed=seed,
            steps=contest.args.steps,
            cfg=contest.args.cfg,
        )
        for prompt, seed in contest.held_out_pairs[:PAIRS]
    ]
    candidates: dict[str, Any] = {f"EasyCache {value:g}": easycache(model, value)[0] for value in THRESHOLDS}
    for budget in contest.args.budgets:
        for row in of_contestant(contest.result["rows"], budget, "ours, effort 30")[:1]:
            genome = Genome(tuple(row["budgets"]), Forecast(**row["forecast"]), row["mode"])
            candidates[f"ours {budget:g}"] = accelerated(model, genome.schedule(contest.bench.setting.sigmas))[0]
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in candidates}
    for job in jobs:
        dense, seconds = sample(model, job)
        for name, candidate in candidates.items():
            output, own = sample(candidate, job)
            measured[name].append((min(200.0, psnr(output, dense, value_range(dense))), seconds, own))
        print(f"  EasyCache: pair {len(measured['EasyCache 0.02'])} of {len(jobs)}", flush=True)
    for name, values in measured.items():
        yield {
            "name": name,
            "psnr": sum(value for value, _, _ in values) / len(values),
            "psnr_all": [round(value, 3) for value, _, _ in values],
            "speedup": sum(dense for _, dense, _ in values) / sum(own for _, _, own in values),
        }
