"""What travels in the host's options: the plan for good, the run for the length of one sampler call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..engine.plan import Plan
from ..engine.report import ReportHandle
from ..engine.run import Run
from ..models import Architecture
from .attention import RunAttention

KEY = "astraea"
RUN_KEY = "astraea_run"


@dataclass(frozen=True)
class Attachment:
    """Small and immutable, so that every clone of the model may share it."""

    plan: Plan
    handle: ReportHandle

    def __deepcopy__(self, memo: dict) -> Attachment:
        return self  # hosts up to 0.13 deep-copy model options


@dataclass
class ActiveRun:
    """A run in progress, the architecture of the model it runs on, and the attention of its token steps."""

    run: Run
    attention: RunAttention
    announced_bytes: int = 0
    architectures: dict[int, Architecture] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict) -> ActiveRun:
        return self

    def architecture(self, diffusion_model: Any, describe: Any) -> Architecture:
        """Described once per model object; raises UnsupportedModel."""
        known = self.architectures.get(id(diffusion_model))
        if known is None:
            known = self.architectures[id(diffusion_model)] = describe(diffusion_model)
        return known
