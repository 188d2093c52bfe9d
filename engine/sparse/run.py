"""Sparse attention in one sampler run: which calls are sparse, what each head takes, and what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...kernels.race import Timing
from ..blocks.interface import TokenLayout
from ..report.device_timer import DeviceTimer
from .allocation import Allocation, LayerAllocation
from .call import TileCall
from .candidates import ROUTING, HeadChoice
from .figures import SparseFigures
from .layout import RowLayout, query_parts, row_layout
from .methods import layout_of
from .orders import token_orders
from .plan import AUTO, CORE, SparsePlan
from .work import AttentionCall, SparseWork

HEAD_DIMS = (64, 128)
HALF = (torch.float16, torch.bfloat16)
CHOSEN_EVERY = 4  # sparse steps; in short runs every one
SHORT_RUN = 8  # steps

PLANNED = ""  # reason of a call that was planned to be dense
CAPTURING = "a CUDA graph is being captured"
NEEDS_TOO_MUCH = "its heads need so much that dense attention is as fast"
NEEDS_LSE = "mode paper needs the log-sum-exp of all keys"
OTHER_TOKENS = "its tokens are not those that the latents' size leads to expect"
UNKNOWN_ROWS = "which rows a token step selected is not known"


@dataclass
class ModelCallState:
    """A model call in progress, in its own thread.

    conditioned: its first frame is given; roles: of its conditionings; layer: number of its next self-attention;
    is_closed: within a dense attention call; is_sparse: has had a sparse one; is_partial: computes some tokens only;
    is_measured: attention was timed in it; tiled: its tiles by layout and selection, with the latter, so that no other
    has its id.
    """

    step: int
    layout: TokenLayout
    conditioned: bool
    roles: Hashable
    layer: int = 0
    is_closed: bool = False
    is_sparse: bool = False
    is_partial: bool = False
    is_measured: bool = False
    tiled: dict[Hashable, tuple[TileCall, Tensor]] = field(default_factory=dict)


@dataclass
class LayerState:
    """Choice of one layer's heads, and the step at which it was made."""

    choice: HeadChoice | None = None
    chosen_at: int = -1


@dataclass
class SparseRun:
    """Mutable state of one sampler call, from one thread per device.

    levels: noise levels of its steps, the last one included; level: of a sigma. lasting: context in which to allocate
    and free memory beside a model's own, see `CallRequest.allocating`.
    """

    plan: SparsePlan
    levels: Sequence[float]
    level: Callable[[float], float] = float
    seed: int = 0
    lasting: Callable[[], AbstractContextManager[Any]] = nullcontext
    figures: SparseFigures = field(default_factory=SparseFigures)
    _calls: dict[int, ModelCallState] = field(default_factory=dict)
    _layers: dict[Hashable, LayerState] = field(default_factory=dict)
    _kept: dict[Hashable, Any] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.figures.steps = self.steps
        self._first_sparse = self.plan.dense_steps(self.steps, self.levels[0])

    def __deepcopy__(self, memo: dict) -> SparseRun:
        return self

    @property
    def steps(self) -> int:
        return max(1, len(self.levels) - 1)

    def step_of(self, level: float) -> int:
        """Return the step of a noise level."""
        passed = sum(known >= level - 1e-4 * max(1.0, level) for known in self.levels)
        return min(max(0, passed - 1), self.steps - 1)

    def kept(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what is kept under a key for the length of the run; made at the first time."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            return self._kept[key]

    # --- model calls ------------------------------------------------------------------------------------------

    @contextmanager
    def model_call(
        self, sigma: float, layout: TokenLayout, conditioned: bool, roles: Hashable, device: torch.device
    ) -> Iterator[None]:
        """Within the context, this thread is in a model call; see `ModelCallState`."""
        thread, timer = threading.get_ident(), DeviceTimer(device)
        outer = self._calls.get(thread)
        call = self._calls[thread] = ModelCallState(self.step_of(self.level(sigma)), layout, conditioned, roles)
        began = timer.mark()
        try:
            yield
        finally:
            self._calls.pop(thread, None)
            if outer is not None:
                self._calls[thread] = outer
        if call.layer and not call.is_partial and not call.is_measured:
            with self._lock:
                self.figures.add_call(call.is_sparse, timer.between(began, timer.mark()), device)

    @property
    def is_open(self) -> bool:
        """Tell whether this thread is in a model call, and not within a dense attention call of it."""
        call = self._calls.get(threading.get_ident())
        return call is not None and not call.is_closed

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Within the context, this thread's attention calls are no business of the run."""
        call = self._calls.get(threading.get_ident())
        if call is None or call.is_closed:
            yield
            return
        call.is_closed = True
        try:
            yield
        finally:
            call.is_closed = False

    def finish(self) -> SparseFigures:
        """Drop all that was kept; returns what came of the run."""
        with self._lock:
            self._calls.clear()
            self._layers.clear()
            self._kept.clear()
            self.figures.resolve()
            return self.figures

    # --- attention calls --------------------------------------------------------------------------------------

    def attend(self, call: AttentionCall) -> Tensor | None:
        """Return the output `[B, M, H, D]` of a sparse call; None where the call is to be dense."""
        model_call = self._calls.get(threading.get_ident())
        rows = None if model_call is None else row_layout(call.k.shape[1], model_call.layout)
        is_partial = call.q.shape[1] != call.k.shape[1]
        if model_call is None or rows is None or (is_partial and call.selected is None):
            # Of text and sound, or of tokens that are not those expected: these are worth a remark if they are many.
            if not is_partial and call.k.shape[1] >= self.plan.min_tokens > 0:
                self.stays_dense(OTHER_TOKENS)
            return None
        layer, model_call.layer = model_call.layer, model_call.layer + 1
        model_call.is_partial |= is_partial
        with self._lock:
            self.figures.layers.add(layer)
        reason = self._dense_reason(call, layer, model_call)
        if reason is None:
            return self._attend(call, rows, layer, model_call)
        self._stay_dense(reason)
        return None

    def _dense_reason(self, call: AttentionCall, layer: int, model_call: ModelCallState) -> str | None:
        """Return why a call stays dense, PLANNED where that is as planned; None for a sparse call."""
        q, k, v = call.q, call.k, call.v
        if self.plan.is_dense or model_call.step < self._first_sparse or layer < self.plan.dense_layers:
            return PLANNED
        if call.is_masked:
            return "it has a mask"
        if k.shape[1] < self.plan.min_tokens:
            return f"{k.shape[1]} tokens are fewer than min_tokens, {self.plan.min_tokens}"
        if k.shape[2] != q.shape[2] or v.shape != k.shape:
            return "queries and keys differ in heads"
        if not q.dtype == k.dtype == v.dtype or (q.device.type != "cpu" and q.dtype not in HALF):
            return f"its tensors are {str(q.dtype).removeprefix('torch.')}"
        if q.device.type != "cpu" and q.shape[-1] not in HEAD_DIMS:
            return f"its heads have size {q.shape[-1]}"
        if q.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return CAPTURING
        return None

    def _attend(self, call: AttentionCall, rows: RowLayout, layer: int, model_call: ModelCallState) -> Tensor | None:
        own = rows
        if model_call.conditioned:
            rows = rows.with_first_frame_dense()
        else:
            rows = layout_of(self.plan.choice, rows, self.plan.density)
        parts = query_parts(rows, own, call.q.shape[1], call.selected)
        if parts is None:
            self._stay_dense(UNKNOWN_ROWS)
            return None
        work = SparseWork(self.plan, call, parts, self._tiled(rows, call.q.device, parts.selected, model_call))
        if self.plan.kernel == CORE:
            if not (refusal := work.core_refusal()):
                self._note(work, HeadChoice.same(ROUTING, self.plan.density, call.q.shape[2]), layer, model_call, None)
                return work.compute_by_core()
            with self._lock:
                self.figures.remarks.add(f"{refusal}: the own kernel ran instead")
        with self.lasting():
            timing = self._timing(work, model_call) if self.plan.kernel == AUTO else None
            if timing is not None and not timing.is_worth_it:
                self._stay_dense(timing.reason)
                return None
            choice, is_new = self._choice(work, layer, model_call)
        if timing is not None:
            timed = work.density_of(HeadChoice.same(ROUTING, self.plan.density, 1))
            timing = timing.at(work.density_of(choice) / timed)
            if not timing.is_worth_it:
                self._stay_dense(NEEDS_TOO_MUCH)
                return None
        self._note(work, choice, layer, model_call, timing)
        if is_new:
            with self._lock:
                self.figures.add_error(layer, model_call.step, choice.error)
                self.figures.choices.update(candidate.name for candidate in choice.candidates)
        return work.compute(choice)

    def stays_dense(self, reason: str) -> None:
        """Note that a call stayed dense that was not put to `attend`."""
        if self.is_open:
            self._stay_dense(reason)

    def _stay_dense(self, reason: str) -> None:
        with self._lock:
            self.figures.dense[reason] += 1

    def _tiled(
        self, rows: RowLayout, device: torch.device, selected: Tensor | None, model_call: ModelCallState
    ) -> TileCall:
        """Return the tiles of a call: those of full calls are kept, those of selected rows for one model call."""
        sizes = self.plan.query_tile, self.plan.key_tile
        with self.lasting():
            orders = self.kept((rows, device), lambda: token_orders(rows, self.plan.key_tile, device))
            if selected is None:
                return self.kept((rows, device, "tiles"), lambda: TileCall.of(rows, orders, *sizes))
            key = rows, id(selected)
            if key not in model_call.tiled:
                model_call.tiled[key] = TileCall.of(rows, orders, *sizes, selected), selected
            return model_call.tiled[key][0]

    @property
    def _chosen_every(self) -> int:
        """Steps for which a choice is kept."""
        return 1 if self.steps <= SHORT_RUN else CHOSEN_EVERY

    def _choice(self, work: SparseWork, layer: int, model_call: ModelCallState) -> tuple[HeadChoice, bool]:
        """Return what the layer's heads take, and whether it is new: at the first sparse step, and some later ones."""
        device, heads, step = work.call.q.device, work.call.q.shape[2], model_call.step
        with self._lock:
            # Another window of the video may have fewer orders to choose from.
            key = (layer, model_call.roles, device, heads, work.tiled.orders.names)
            state = self._layers.setdefault(key, LayerState())
        if state.choice is not None and state.chosen_at <= step < state.chosen_at + self._chosen_every:
            return state.choice, False
        choice = work.choose(self.seed, self._part_of(layer, model_call, device))
        state.choice, state.chosen_at = choice, step
        return choice, True

    def _part_of(self, layer: int, model_call: ModelCallState, device: torch.device) -> LayerAllocation | None:
        """Return a layer's part in the density of its conditioning; None where all heads get the plan's.

        Each conditioning keeps the mean by itself: what it gets does not depend on which thread was the first.
        """
        if not self.plan.spreads:
            return None
        key = "allocation", model_call.roles, device
        allocation: Allocation = self.kept(key, lambda: Allocation(self.plan.density))
        return allocation.of(layer, model_call.step)

    def _timing(self, work: SparseWork, model_call: ModelCallState) -> Timing:
        """Return how long such calls take, which the first of a kind finds out; its model call is no measure then."""
        q, k = work.call.q, work.call.k
        key = ("timing", q.shape[1:], k.shape, q.dtype, q.device, work.call.dense_name)

        def find_out() -> Timing:  # under the lock: to wait for another device's timing is none
            began = time.perf_counter()
            timing = work.time(self._chosen_every)
            model_call.is_measured = True
            self.figures.tuning_seconds += time.perf_counter() - began
            return timing

        return self.kept(key, find_out)

    def _note(
        self, work: SparseWork, choice: HeadChoice, layer: int, model_call: ModelCallState, timing: Timing | None
    ) -> None:
        figures, (computed, pairs) = self.figures, work.share_of(choice)
        model_call.is_sparse = True
        with self._lock:
            figures.calls += 1
            figures.sparse_layers.add(layer)
            figures.sparse_steps.add(model_call.step)
            figures.computed += computed
            figures.pairs += pairs
            if timing is not None:
                figures.milliseconds.append((timing.dense, timing.sparse))
