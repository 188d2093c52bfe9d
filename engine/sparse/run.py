"""Sparse attention in one sampler run: which calls are sparse, what each head takes, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...kernels import FAST, Problem, attend, comfy_kitchen
from ...kernels.key_tiles import KEY_TILE, QUERY_TILE
from ...kernels.race import Timing, race
from ..blocks.interface import TokenLayout
from ..report.device_timer import DeviceTimer
from .allocation import Allocation
from .call import TileCall
from .candidates import CANDIDATES, ROUTED, HeadChoice, TileProblem
from .figures import SparseFigures
from .layout import RowLayout, query_parts, row_layout
from .methods import METHODS, layout_of
from .orders import token_orders
from .plan import AUTO, CORE, MEAN, ROUTING, SparsePlan
from .probe import sampled_rows

HEAD_DIMS = (64, 128)
HALF = (torch.float16, torch.bfloat16)
CHOSEN_EVERY = 4  # sparse steps; in short runs every one
SHORT_RUN = 8  # steps

PLANNED = ""  # reason of a call that was planned to be dense
CAPTURING = "a CUDA graph is being captured"
NEEDS_LSE = "mode paper needs the log-sum-exp of all keys"
UNKNOWN_ROWS = "which rows a token step selected is not known"

Dense = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AttentionCall:
    """One call: q `[B, M, H, D]`, k and v `[B, N, H, D]`.

    dense: the attention that the call would have otherwise, of `(q, k, v)`; it computes rows that are not the video's,
    and is what times are compared with. selected: with M < N, the video's rows among the queries, as keys, int64
    `[B, M]`, ascending; None: unknown. is_masked: some keys do not count for some queries;
    dense_name: of `dense`, by which times are saved.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    dense: Dense
    selected: Tensor | None = None
    is_masked: bool = False
    dense_name: str = ""


@dataclass
class ModelCallState:
    """A model call in progress, in its own thread.

    conditioned: its first frame is given; roles: of its conditionings; layer: number of its next self-attention;
    is_closed: within a dense attention call; is_sparse: has had a sparse one; is_partial: computes some tokens only;
    tiled: its tiles by layout and selection, with the latter, so that no other has its id.
    """

    step: int
    layout: TokenLayout
    conditioned: bool
    roles: Hashable
    layer: int = 0
    is_closed: bool = False
    is_sparse: bool = False
    is_partial: bool = False
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
        self._allocation = Allocation(self.plan.density)
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
        if call.layer and not call.is_partial:
            with self._lock:
                self.figures.add_call(call.is_sparse, timer.between(began, timer.mark()))

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
            self._allocation = Allocation(self.plan.density)
            self.figures.resolve()
            return self.figures

    # --- attention calls --------------------------------------------------------------------------------------

    def attend(self, call: AttentionCall) -> Tensor | None:
        """Return the output `[B, M, H, D]` of a sparse call; None where the call is to be dense."""
        model_call = self._calls.get(threading.get_ident())
        rows = None if model_call is None else row_layout(call.k.shape[1], model_call.layout, self.plan.key_tile)
        is_partial = call.q.shape[1] != call.k.shape[1]
        if model_call is None or rows is None or (is_partial and call.selected is None):
            return None  # no self-attention of the video: text, sound
        layer, model_call.layer = model_call.layer, model_call.layer + 1
        model_call.is_partial |= is_partial
        with self._lock:
            self.figures.layers.add(layer)
        reason = self._dense_reason(call, model_call)
        if reason is None:
            return self._attend(call, rows, layer, model_call)
        self._stay_dense(reason)
        return None

    def _dense_reason(self, call: AttentionCall, model_call: ModelCallState) -> str | None:
        """Return why a call stays dense, PLANNED where that is as planned; None for a sparse call."""
        q, k, v = call.q, call.k, call.v
        if self.plan.is_dense or model_call.step < self._first_sparse:
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
        own, q, k, v = rows, call.q, call.k, call.v
        if model_call.conditioned:
            rows = rows.with_first_frame_dense()
        else:
            rows = layout_of(self.plan.choice, rows, self.plan.density)
        parts = query_parts(rows, own, q.shape[1], call.selected)
        if parts is None:
            self._stay_dense(UNKNOWN_ROWS)
            return None
        part, tiled = q[:, parts.sparse], self._tiled(rows, q.device, parts.selected, model_call)

        def problem() -> TileProblem:
            return TileProblem(tiled, part, k, v, call.scale)

        def compute(choice: HeadChoice) -> Tensor:
            if self.plan.kernel == CORE and self._core_takes(call, rows):
                at, density = {"before": rows.before, "after": rows.after}, self.plan.density
                return comfy_kitchen.attend(q, k, v, scale=call.scale, density=density, **at)
            tiles = problem().key_tiles(choice, self.plan.rest == MEAN)
            out, _ = attend(part, k, v, scale=call.scale, key_tiles=tiles, preference=FAST)
            return parts.join(out, q, lambda rest: call.dense(rest, k, v))

        with self.lasting():
            timing = self._timing(problem(), compute, call)
            if timing is not None and not timing.is_worth_it:
                self._stay_dense(timing.reason)
                return None
            choice = self._choice(problem(), layer, model_call)
        model_call.is_sparse = True
        self._note(tiled, choice, layer, model_call.step, timing)
        return compute(choice)

    def stays_dense(self, reason: str) -> None:
        """Note that a call stayed dense that was not put to `attend`."""
        if self.is_open:
            self._stay_dense(reason)

    def _core_takes(self, call: AttentionCall, rows: RowLayout) -> bool:
        """Tell whether comfy-kitchen computes a call; the report says why not."""
        reason = comfy_kitchen.unsupported_reason(call.q, call.k, rows.before, rows.after)
        with self._lock:
            if reason:
                self.figures.remarks.add(f"{reason}: the own kernel ran instead")
        return not reason

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

    def _choice(self, problem: TileProblem, layer: int, model_call: ModelCallState) -> HeadChoice:
        """Return what the layer's heads take, chosen anew at the first sparse step and at some of the later ones."""
        with self._lock:
            # Another window of the video may have fewer orders to choose from.
            key = (layer, model_call.roles, problem.q.device, problem.heads, problem.call.orders.names)
            state = self._layers.setdefault(key, LayerState())
        every = 1 if self.steps <= SHORT_RUN else CHOSEN_EVERY
        if state.choice is not None and state.chosen_at <= model_call.step < state.chosen_at + every:
            return state.choice
        sampled = sampled_rows(problem.call.query_count, self.seed, problem.q.device)
        method = ROUTING if self.plan.kernel == CORE else self.plan.choice
        part = self._allocation.of((layer, model_call.roles, problem.q.device)) if self.plan.spreads else None
        choice = METHODS[method](problem, sampled, self.plan, part)
        state.choice, state.chosen_at = choice, model_call.step
        with self._lock:
            self.figures.errors.setdefault((layer, model_call.step), []).append(choice.error)
            self.figures.choices.update(candidate.name for candidate in choice.candidates)
        return choice

    def _timing(
        self, problem: TileProblem, compute: Callable[[HeadChoice], Tensor], call: AttentionCall
    ) -> Timing | None:
        """Return how long such calls take, sparse and dense, timed once on a device; None where that is not asked.

        Timed with lists that cost the most to make, at the same density for all heads.
        """
        if self.plan.kernel != AUTO:
            return None
        usual = problem.call.query_tile == QUERY_TILE and problem.call.key_tile == KEY_TILE
        described = Problem.of(problem.q, problem.k, problem.v, key_tiles=True)
        described = replace(described, usual_tiles=usual, rest=self.plan.rest == MEAN)
        routed = [each for each in CANDIDATES if each.kind == ROUTED and each.order in problem.call.orders.names]
        choice = HeadChoice.same(routed[-1], self.plan.density, problem.heads)
        works = (lambda: compute(choice)), (lambda: call.dense(call.q, call.k, call.v))
        key = described.kind, call.dense_name
        return self.kept(key, lambda: race(described, self.plan.density, *works, call.dense_name))

    def _note(self, call: TileCall, choice: HeadChoice, layer: int, step: int, timing: Timing | None) -> None:
        figures, heads = self.figures, len(choice.densities)
        with self._lock:
            figures.calls += 1
            figures.sparse_layers.add(layer)
            figures.sparse_steps.add(step)
            figures.pairs += call.query_tiles * call.key_tiles * heads
            figures.computed += call.query_tiles * sum(call.count(density) for density in choice.densities)
            if timing is not None:
                figures.milliseconds = (timing.dense, timing.sparse)
