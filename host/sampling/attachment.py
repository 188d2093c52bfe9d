"""What travels in the host's options: the plan for good, the run for the length of one sampler call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...engine.calls.base import Call
from ...engine.interface import RowGroup
from ...engine.plan import Plan
from ...engine.report import ReportHandle
from ...engine.run import Run
from ...models import Architecture
from .attention import RunAttention
from .cond_groups import OptionWatch

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
    """A run in progress, the architecture of the model it runs on, and the attention of its token steps.

    Model calls come from one thread per device.
    """

    run: Run
    attention: RunAttention
    announced_bytes: int = 0
    observe: Observe | None = None
    sees_model: bool = False  # whether `model_wrapper` is in place
    options: OptionWatch = field(default_factory=OptionWatch)
    _architectures: dict[int, Architecture] = field(default_factory=dict)
    _calls: dict[int, Call] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __deepcopy__(self, memo: dict) -> ActiveRun:
        return self

    def architecture(self, diffusion_model: Any, describe: Any) -> Architecture:
        """Described once per model object; raises UnsupportedModel."""
        with self._lock:
            known = self._architectures.get(id(diffusion_model))
            if known is None:
                known = self._architectures[id(diffusion_model)] = describe(diffusion_model)
            return known

    @contextmanager
    def running(self, call: Call) -> Iterator[None]:
        """While it lasts, this is the call that `model_wrapper` sees."""
        thread = threading.get_ident()
        self._calls[thread] = call
        try:
            yield
        finally:
            del self._calls[thread]

    def model_wrapper(self) -> Callable[..., Any]:
        """A DIFFUSION_MODEL wrapper for the innermost place: it sees that the model runs for this thread's call."""

        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            call = self._calls.get(threading.get_ident())
            if call is not None:
                call.skipped = False
            return executor(*args, **kwargs)

        return wrapper
