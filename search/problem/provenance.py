"""Provenance of a found schedule: how, on what and when it was found, and its expected result. Plain JSON values."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from ...schedules import Schedule, check_name
from .config import METHOD_DESCRIPTIONS, SearchConfig
from .losses import mean_psnr
from .result import FoundSchedule, SearchResult
from .runner import SamplingConfig

INTERRUPTED = "interrupted after"


def as_schedule(
    found: FoundSchedule, result: SearchResult, setting: SamplingConfig, config: SearchConfig, name: str
) -> Schedule:
    """Return the schedule under this name, with provenance. Raises ScheduleError for a name that cannot be used."""
    baseline = result.baseline_for(found.budget)
    sampling = dict(setting.facts.get("sampling", {}))
    expected = {
        "psnr_db": round(found.psnr, 2),
        "speedup": round(found.speedup, 3),
        "seconds": round(found.seconds, 4),
        "dense_seconds": round(result.dense_seconds, 4),
        "steps": setting.steps,
        "device": str(setting.facts.get("device", "")),
        "sampler": str(sampling.get("sampler", "")),
        "cfg": sampling.get("cfg"),
        "latent": sampling.get("latent"),
    }
    interrupted = "" if result.finished else f"; {INTERRUPTED} {result.cost:.1f} dense-run equivalents"
    provenance = {
        "found": f"searched: {METHOD_DESCRIPTIONS[config.method]}{interrupted}",
        "budget": found.budget,
        "promise": {key: value for key, value in expected.items() if value is not None},
        "figures": {
            "psnr_db_of_cases": [round(mean_psnr([loss]), 2) for loss in found.losses],
            **({"auto_psnr_db": round(baseline.psnr, 2)} if baseline is not None else {}),
        },
        "search": {
            "effort": config.effort,
            "seed": config.seed,
            "floor": round(found.partial_step_overhead, 2),
            "dense_run_equivalents": round(result.cost, 2),
            "identity": setting.identity,
            **({"small_clips": result.proxy_cases} if result.proxy_cases else {}),
        },
        **dict(setting.facts),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
    return replace(found.schedule, name=check_name(name), provenance=provenance)


def is_of_interrupted_search(schedule: Schedule) -> bool:
    return INTERRUPTED in str(schedule.provenance.get("found", ""))
