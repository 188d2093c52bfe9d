"""Data in the host's options: the plan on a MODEL, and the active run for the length of one sampler call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...engine.blocks.interface import RowGroup
from ...engine.planning.plan import Plan
from ...engine.report import ReportHandle
from ...engine.run import Run
from ...engine.sparse.run import SparseRun
from ...models import Architecture
from .attention import RunAttention
from .cond_groups import OptionWatch
from .levels import Level

PLAN_KEY = "astraea"
RUN_KEY = "astraea_run"

OnModelCall = Callable[[int, Tensor, Tensor, tuple[RowGroup, ...]], None]
"""on_model_call(step, x [B, …], prediction [B, …], groups): after a call that goes
through the host's model, though another node may answer it, and before its correction; read only."""


class Ranks(Protocol):
    """The processes that sample one clip together, each on a GPU of its own, as one of them knows them.

    All make the same calls in the same order, and each calls these methods at the same points: they may wait for the
    others.
    """

    def agree(self, number: int) -> int:
        """Return the largest of the numbers that all of them give."""

    def share(self, architecture: Architecture) -> Architecture:
        """Return the architecture for the part of the tokens that this one has."""

    def throw_if_interrupted(self) -> None:
        """Raise in all of them, if the user has interrupted the run."""

    def raise_named(self, error: Exception) -> None:
        """Raise an error that names this process's GPU in place of one of its own; returns where it needs no name."""


@dataclass(frozen=True)
class PlanAttachment:
    """The plan on a MODEL: small and immutable, so that every clone of the MODEL may share it.

    ranks: None where the run is one process.
    """

    plan: Plan
    handle: ReportHandle
    on_model_call: OnModelCall | None = None
    ranks: Ranks | None = None

    def __deepcopy__(self, memo: dict) -> PlanAttachment:
        return self  # hosts up to 0.13 deep-copy model options


@dataclass
class ActiveRun:
    """A run in progress, with the host's part of it: architectures, attention, noise levels, and calls by thread.

    ranks: as in the plan's attachment; sparse: the sparse attention of the same run, if another node asked for it.

    Model calls come from one thread per device.
    """

    run: Run
    attention: RunAttention
    level: Level
    announced_bytes: int = 0
    on_model_call: OnModelCall | None = None
    ranks: Ranks | None = None
    sparse: SparseRun | None = None
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
                described = describe(diffusion_model)
                known = described if self.ranks is None else self.ranks.share(described)
                self._architectures[id(diffusion_model)] = known
            return known

    @contextmanager
    def watch_model(self) -> Iterator[Callable[[], bool]]:
        """Watch whether the model itself runs in this thread's call; yields a function that returns it."""
        thread = threading.get_ident()
        self._reached[thread] = True  # some models, such as Mochi, call no wrapper
        try:
            yield lambda: self._reached[thread]
        finally:
            del self._reached[thread]

    def install_watch(self, transformer_options: dict[str, Any]) -> None:
        """Put DIFFUSION_MODEL wrappers outside and inside of those of other packs, which may answer themselves.

        The options must be the run's own copy; without other packs' wrappers they are left as they are.
        """
        others = transformer_options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
        if any(others.values()):
            watched = {f"{RUN_KEY}_begin": [self._noting(False)], **others, RUN_KEY: [self._noting(True)]}
            transformer_options["wrappers"][WrappersMP.DIFFUSION_MODEL] = watched

    def _noting(self, reached: bool) -> Callable[..., Any]:
        """Return a wrapper that notes whether this thread's call has reached the model."""

        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            thread = threading.get_ident()
            if thread in self._reached:
                self._reached[thread] = reached
            return executor(*args, **kwargs)

        return wrapper
