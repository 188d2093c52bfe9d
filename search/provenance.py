"""What a found schedule tells of itself: how, on what and when it was found, what it promises. Plain JSON values."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from ..schedules import Schedule, check_name
from .evaluation.evaluator import mean_psnr
from .problem import SamplingConfig
from .result import FoundSchedule, Result

PACK_METHOD = "searched: replayed evolution, successive halving"


def as_schedule(
    found: FoundSchedule, result: Result, setting: SamplingConfig, name: str, effort: float, seed: int
) -> Schedule:
    """The schedule under its name, with provenance. Raises ScheduleError for a name that cannot be one."""
    rival = next((h for h in result.baselines if h.budget == found.budget), None)
    sampling = dict(setting.facts.get("sampling", {}))
    promise = {
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
    stopped = "" if result.finished else f"; interrupted after {result.spent:.1f} dense-run equivalents"
    provenance = {
        "found": PACK_METHOD + stopped,
        "budget": found.budget,
        "promise": {key: value for key, value in promise.items() if value is not None},
        "figures": {
            "psnr_db_of_cases": [round(mean_psnr([loss]), 2) for loss in found.losses],
            **({"bundled_psnr_db": round(rival.psnr, 2)} if rival is not None else {}),
        },
        "search": {
            "effort": effort,
            "seed": seed,
            "floor": round(found.floor, 2),
            "dense_run_equivalents": round(result.spent, 2),
            "identity": setting.identity,
            **({"small_clips": result.small_clips} if result.small_clips else {}),
        },
        **dict(setting.facts),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
    return replace(found.schedule, name=check_name(name), provenance=provenance)
