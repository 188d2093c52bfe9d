"""Clips of the demo model, for pictures: as Astraea Accelerate makes them, and their frames."""

from __future__ import annotations

from typing import Any


def accelerated(model: Any, budget: float) -> tuple[Any, Any]:
    """The MODEL that the node gives, and the handle of its reports."""
    from astraea.engine.report import ReportHandle
    from astraea.host.sampling.patch_model import accelerate
    from astraea.nodes.accelerate_inputs import AccelerateInputs, choose_plan

    handle = ReportHandle()
    return accelerate(model, choose_plan(AccelerateInputs("auto", budget)), handle), handle


def frames_of(latents: Any) -> Any:
    """The frames `[T, H, W, 3]` of a sampler's result, as bytes."""
    from astraea.host.demo_model import decode_latents

    return (decode_latents(latents)[0].movedim(1, -1) * 255).round().byte().numpy()
