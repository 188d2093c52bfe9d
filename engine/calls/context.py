"""Plain data that a model call is made from: the host's request, its place in the run, and the run's constants."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...schedules import PredictionPrior
from ..blocks.interface import Attend, BlockRunner, RowGroup, TokenLayout
from ..planning.modes import Mode
from ..report.device_timer import Mark
from ..sampler.profile import SamplerProfile
from ..state.cond_state import CondState
from ..state.residual_store import CachePolicy, alone


@dataclass(frozen=True)
class RunContext:
    """The part of a run that its calls may know.

    prior: what forecasts assume of the predictions; seed: of random selections; agree: returns the largest of the
    numbers that all processes of the run give it, for what each would otherwise decide by its own memory.
    """

    mode: Mode
    cache: CachePolicy
    profile: SamplerProfile
    prior: PredictionPrior
    seed: int = 0
    agree: Callable[[int], int] = alone

    def seed_at(self, step: int) -> int:
        """Seed of a step's random selection."""
        return (self.seed * 1_000_003 + step) % 2**63


@dataclass(frozen=True, kw_only=True)
class CallRequest:
    """A model call as the host describes it.

    blocks: number of transformer blocks; runner: None for a model whose blocks are not known, which runs as a whole.
    full_reason: why it runs in full whatever the schedule says, or "". attend_selected: returns the attention of a call
    for the video's tokens `[B, M]`, as keys, ascending, where that depends on them. allocating: context in which to
    allocate and free memory that outlives the model's forward: hosts may record what a model allocates, and expect all
    of it back.
    """

    sigma: float
    groups: tuple[RowGroup, ...]
    layout: TokenLayout
    runner: BlockRunner | None
    attend: Attend
    blocks: int
    device: torch.device
    full_reason: str = ""
    attend_selected: Callable[[Tensor], Attend] | None = None
    allocating: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def rows(self) -> int:
        return sum(group.count for group in self.groups)


@dataclass(frozen=True)
class CondRows:
    """The rows of one conditioning in a call. sampler_call: index among the sampler's calls; None where unknown."""

    group: RowGroup
    state: CondState
    sampler_call: int | None

    @property
    def rows(self) -> slice:
        return self.group.rows


@dataclass(frozen=True, kw_only=True)
class CallInfo(CallRequest):
    """A model call when it begins: the request, and its place in the run.

    started: mark of the device's timer; reason: why it runs in full though its step was planned otherwise;
    keeps_prediction: a later skipped step needs its prediction.
    """

    step: int
    conds: tuple[CondRows, ...]
    started: Mark
    reason: str = ""
    keeps_prediction: bool = False
