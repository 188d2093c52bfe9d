"""What travels in the host's options: the plan for good, the run for the length of one sampler call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..engine.blocks import RowGroup
from ..engine.plan import Plan
from ..engine.report import ReportHandle
from ..engine.run import Run
from ..models import Architecture
from .attention import RunAttention

KEY = "astraea"
RUN_KEY = "astraea_run"

Observe = Callable[[int, Tensor, Tensor, tuple[RowGroup, ...]], None]
"""observe(step, x [B, …], denoised [B, …], groups): a call that was computed, before any correction. Must not write."""


@dataclass(frozen=True)
class Attachment:
    """Small and immutable, so that every clone of the model may share it. observe: told of every computed call."""

    plan: Plan
    handle: ReportHandle
    observe: Observe | None = None

    def __deepcopy__(self, memo: dict) -> Attachment:
        return self  # hosts up to 0.13 deep-copy model options


@dataclass
class ActiveRun:
    """A run in progress, the architecture of the model it runs on, and the attention of its token steps."""

    run: Run
    attention: RunAttention
    announced_bytes: int = 0
    observe: Observe | None = None
    architectures: dict[int, Architecture] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict) -> ActiveRun:
        return self

    def architecture(self, diffusion_model: Any, describe: Any) -> Architecture:
        """Described once per model object; raises UnsupportedModel."""
        known = self.architectures.get(id(diffusion_model))
        if known is None:
            known = self.architectures[id(diffusion_model)] = describe(diffusion_model)
        return known
