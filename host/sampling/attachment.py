"""Data in the host's options: the plan on a MODEL, and the active run for the length of one sampler call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...engine.blocks.interface import RowGroup
from ...engine.planning.plan import Plan
from ...engine.report import ReportHandle
from ...engine.run import Run
from ...models import Architecture
from .attention import RunAttention
from .cond_groups import OptionWatch

PLAN_KEY = "astraea"
RUN_KEY = "astraea_run"

OnModelCall = Callable[[int, Tensor, Tensor, tuple[RowGroup, ...]], None]
"""on_model_call(step, x [B, …], prediction [B, …], groups): after a call that goes
through the host's model, though another node may answer it, and before its correction; read only."""


@dataclass(frozen=True)
class PlanAttachment:
    """The plan on a MODEL: small and immutable, so that every clone of the MODEL may share it."""

    plan: Plan
    handle: ReportHandle
    on_model_call: OnModelCall | None = None

    def __deepcopy__(self, memo: dict) -> PlanAttachment:
        return self  # hosts up to 0.13 deep-copy model options


@dataclass
class ActiveRun:
    """A run in progress, with the host's part of it: architectures, attention, and calls by thread.

    Model calls come from one thread per device. is_wrapped: other packs may answer in the model's place; then
    `model_wrapper` is installed inside of theirs.
    """

    run: Run
    attention: RunAttention
    announced_bytes: int = 0
    on_model_call: OnModelCall | None = None
    is_wrapped: bool = False
    option_watch: OptionWatch = field(default_factory=OptionWatch)
    _architectures: dict[int, Architecture] = field(default_factory=dict)
    _reached: dict[int, bool] = field(default_factory=dict)  # by thread: whether the model itself ran in its call
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __deepcopy__(self, memo: dict) -> ActiveRun:
        return self

    def architecture(self, diffusion_model: Any, describe: Callable[[Any], Architecture]) -> Architecture:
        """Return the architecture of a model object, described once. Raises UnsupportedModel."""
        with self._lock:
            known = self._architectures.get(id(diffusion_model))
            if known is None:
                known = self._architectures[id(diffusion_model)] = describe(diffusion_model)
            return known

    @contextmanager
    def watch_model(self) -> Iterator[Callable[[], bool]]:
        """Watch whether the model itself runs in this thread's call; yields a function that returns it."""
        thread = threading.get_ident()
        self._reached[thread] = not self.is_wrapped
        try:
            yield lambda: self._reached[thread]
        finally:
            del self._reached[thread]

    def model_wrapper(self) -> Callable[..., Any]:
        """Return a DIFFUSION_MODEL wrapper for the innermost place: it notes that the model runs."""

        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            thread = threading.get_ident()
            if thread in self._reached:
                self._reached[thread] = True
            return executor(*args, **kwargs)

        return wrapper
