"""Predicted seconds and bytes of a run on several GPUs, made before it is measured. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..scaling.inputs import CLIPS, H100, RTX_4090, WAN_14B, Machine, own_figures
from ..scaling.model import Device, Layout, Steps, run_of
from ..scaling.predict import device_of
from .cluster import Division
from .sent import planned_bytes
from .setting import DENSE, Setting, ways_of

# Machines of the model of scaling, by their GPUs as torch names them.
MACHINES = {"NVIDIA H100 80GB HBM3": H100, "NVIDIA GeForce RTX 4090": RTX_4090}
BY_MODEL, BY_COUNTING = "the model of scaling", "counting"


def predictions(setting: Setting, divisions: Sequence[Division], gpu: str) -> list[dict[str, Any]]:
    """Return by number of GPUs and way the bytes that leave a GPU and the speed-ups.

    Over the dense run on as many GPUs, and over that on one where the model of scaling has this machine, model and
    clip. Else multiplications are counted: the speed-up over one GPU is then that of the dense run, which is measured.
    """
    return [
        {
            "gpus": division.gpus,
            "way": way.name,
            "sent_bytes": planned_bytes(setting, division, way.steps(setting.steps)),
            **_speedups(setting, division, way.steps(setting.steps), _machine(setting, division, gpu)),
        }
        for division in divisions
        for way in ways_of(division)
    ]


def _machine(setting: Setting, division: Division, gpu: str) -> Machine | None:
    machine, network = MACHINES.get(gpu), setting.network
    sizes = (network.dim, network.feed_forward, network.layers)
    is_known = sizes == (WAN_14B.dim, WAN_14B.feed_forward, WAN_14B.layers) and setting.clip in CLIPS
    fits = machine is not None and division.gpus in machine.gpus and division.ring == 1
    return machine if fits and is_known else None


def _speedups(setting: Setting, division: Division, steps: Steps, machine: Machine | None) -> dict[str, Any]:
    clip, layout = setting.clip, Layout(division.cfg, division.ulysses * division.ring)
    device = device_of(machine, clip, own_figures()) if machine is not None else Device(1.0, math.inf)
    dense = DENSE.steps(setting.steps)

    def seconds(layout: Layout, steps: Steps) -> float:
        return run_of(setting.network, clip, device, layout, setting.rows, steps)[0]

    own = seconds(layout, steps)
    return {
        "over_dense": round(seconds(layout, dense) / own, 3),
        "over_one": round(seconds(Layout(), dense) / own, 3) if machine is not None else None,
        "by": BY_MODEL if machine is not None else BY_COUNTING,
    }
