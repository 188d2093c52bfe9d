"""The whole result of the model of scaling: predicted seconds, assumptions, and the same model on published runs.

Standard library only. Figures are rounded, so that every machine writes the same file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .inputs import CLIPS, H200_MEMORY, MACHINES, PUBLISHED, WAN_14B, Machine, OwnFigures, Published, own_figures
from .model import Clip, Device, Layout, Steps, computed_step, kept_bytes, run_of

SETTINGS = ((5.0, 50), (1.0, 20))  # cfg and steps; above 1, two conditionings
DENSE, TOKENS = "dense", "tokens 0.5"
MODES: dict[str, Callable[[int], Steps]] = {
    DENSE: Steps,
    "whole 0.5": partial(Steps.whole, 0.5),
    "whole 0.3": partial(Steps.whole, 0.3),
    TOKENS: partial(Steps.tokens, 0.5),
}
BANDWIDTHS = (0.5, 1.0, 2.0)  # factors on the assumed one


def layouts(gpus: int, rows: int) -> list[Layout]:
    """Return the ways of sharing the work: all GPUs by Ulysses and, with two conditionings, two groups of half as many.

    gpus: a power of two.
    """
    found = [Layout(2, gpus // 2)] if rows == 2 and gpus > 1 else []
    return [*found, Layout(1, gpus)]


def device_of(machine: Machine, clip: Clip, own: OwnFigures) -> Device:
    """Return one GPU of a machine; a token step's own work is as fast as the GPU's memory."""
    return Device(
        machine.dense_step[clip.name].value,
        machine.link.value,
        per_hidden=own.token_work() * H200_MEMORY / machine.memory.value,
        skipped_seconds=own.skipped_step,
    )


def row_of(machine: Machine, clip: Clip, device: Device, layout: Layout, rows: int, steps: int) -> dict[str, Any]:
    """Return one line of the table; speed-ups are over the dense run on one GPU of the machine.

    A run with token steps is None where a GPU has no room for what they keep, and where the conditionings are divided.
    """
    one, _ = run_of(WAN_14B, clip, device, Layout(), rows, MODES[DENSE](steps))
    kept = kept_bytes(WAN_14B, clip, layout, rows)
    runs: dict[str, dict[str, Any] | None] = {}
    for mode, steps_of in MODES.items():
        seconds, sent = run_of(WAN_14B, clip, device, layout, rows, steps_of(steps))
        found = {"seconds": round(seconds, 3), "speedup": round(one / seconds, 3), "sent_bytes": sent}
        runs[mode] = found if mode != TOKENS or (layout.cfg == 1 and kept <= machine.room.value) else None
    step = computed_step(WAN_14B, clip, device, layout, rows)
    return {
        "clip": clip.name,
        "gpus": layout.gpus,
        "layout": layout.name,
        "step": {
            "computing_seconds": round(step.computing, 5),
            "sending_seconds": round(step.sending, 5),
            "sent_bytes": step.sent,
        },
        "kept_bytes": kept,
        "runs": runs,
    }


def bandwidth_row(machine: Machine, clip: Clip, own: OwnFigures, factor: float) -> dict[str, Any]:
    """Return the dense speed-up of all GPUs of a machine, by Ulysses alone, with another bandwidth."""
    step_seconds, link = machine.dense_step[clip.name].value, machine.link.value * factor
    step = computed_step(WAN_14B, clip, Device(step_seconds, link), Layout(1, machine.gpus[-1]))
    return {"clip": clip.name, "bytes_per_second": link, "speedup": round(step_seconds / step.seconds, 3)}


def published_row(run: Published) -> dict[str, Any]:
    """Return a published run beside the model's speed-up from the same time on one GPU."""
    by_the_model = None
    if run.link is not None:
        one = run.one / run.steps
        step = computed_step(run.network, run.clip, Device(one * 2 / run.rows, run.link), run.layout, run.rows)
        by_the_model = round(one / step.seconds, 3)
    return {
        "who": run.who,
        "model": run.network.name,
        "clip": run.clip.name,
        "gpus": run.layout.gpus,
        "one_seconds": run.one,
        "several_seconds": run.several,
        "speedup": round(run.one / run.several, 3),
        "by_the_model": by_the_model,
        "source": run.source,
    }


def machine_of(machine: Machine, own: OwnFigures) -> dict[str, Any]:
    """Return the predictions for one machine, and what they assume of it."""
    stated = [(f"dense step on one GPU, {name}", "s", step) for name, step in machine.dense_step.items()]
    stated += [
        ("what leaves a GPU", "B/s", machine.link),
        ("a GPU's memory", "B/s", machine.memory),
        ("room beside the weights", "B", machine.room),
    ]
    settings = []
    for cfg, steps in SETTINGS:
        rows = 2 if cfg > 1 else 1
        ways = [way for gpus in machine.gpus for way in layouts(gpus, rows)]
        lines = [
            row_of(machine, clip, device_of(machine, clip, own), way, rows, steps) for clip in CLIPS for way in ways
        ]
        settings.append({"cfg": cfg, "steps": steps, "rows": lines})
    return {
        "machine": machine.name,
        "assumed": [
            {"of": of, "value": each.value, "unit": unit, "what": each.what, "source": each.source}
            for of, unit, each in stated
        ],
        "settings": settings,
        "bandwidths": [bandwidth_row(machine, clip, own, factor) for clip in CLIPS for factor in BANDWIDTHS],
    }


def unsplit_share(clip: Clip, ranks: int = 8) -> float:
    """Return the share of a dense step's work that every rank makes in full."""
    return (ranks * WAN_14B.work(clip.tokens, ranks) / WAN_14B.work(clip.tokens) - 1) / (ranks - 1)


def result() -> dict[str, Any]:
    own = own_figures()
    return {
        "benchmark": "scaling_model",
        "measured": False,
        "command": "python benchmarks/scaling_model.py",
        "model": WAN_14B.name,
        "tokens": {clip.name: clip.tokens for clip in CLIPS},
        "unsplit_share": {clip.name: round(unsplit_share(clip), 5) for clip in CLIPS},
        "own": {
            "token_work_per_hidden": float(f"{own.token_work():.4g}"),
            "skipped_step_seconds": own.skipped_step,
            "dense_step_14b": {clip.name: round(own.dense_14b(clip), 3) for clip in CLIPS},
        },
        "machines": [machine_of(machine, own) for machine in MACHINES],
        "published": [published_row(run) for run in PUBLISHED],
    }
