"""The attention of a run's token steps: the host's own, with the user's override, or a backend timed clearly faster.

The log-sum-exp always comes from the pack's kernels: the host's attention returns none.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...engine.blocks.compilation import no_compile
from ...engine.blocks.interface import Attend
from ...engine.report.writer import ReportWriter
from ...engine.sparse.run import NEEDS_LSE, SparseRun
from ...engine.sparse.work import AttentionCall
from ...kernels import (
    AUTO,
    DISPATCHER,
    HOST,
    MANY_QUERIES,
    TIMING,
    Backend,
    Choice,
    Constraints,
    Problem,
    attend,
    attend_reference,
)
from .memory import lasting_memory
from .sparse import OVERRIDE, SPARSE_RUN_KEY, foreign_override  # noqa: F401 - re-exported

Device = torch.device | None  # of a model call; None where the host does not say
FOREIGN = "another node's, through ComfyUI"
PREFERRED = "the model's own, through ComfyUI"


def _host(
    q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], mask: Tensor | None = None, **preferred: Any
) -> Tensor:
    heads = q.shape[2]
    joined = (t.flatten(2) for t in (q, k, v))
    out = optimized_attention(*joined, heads=heads, mask=mask, transformer_options=options, **preferred)
    return out.unflatten(-1, (heads, -1))


HOST_NAME = f"ComfyUI's {getattr(optimized_attention, '__name__', 'attention')}"
# Runs without a call's options: the dispatcher keeps it longer than a run, whose options it must not hold. A call with
# an override does not come to the dispatcher.
HOST_BACKEND = Backend(
    name=HOST_NAME,
    what="what ComfyUI was started with",
    run=lambda q, k, v, *, scale, need_lse: (_host(q, k, v, {}), None),
    constraints=Constraints(lse=False),
    is_hosts=True,
)


class RunAttention:
    """The attention of one run; notes its backend in the report. preference: `auto`, `host`, `fast` or a backend.

    Model calls come from one thread per device. Each device has its own choices: another one may be another card.
    """

    def __init__(self, preference: str, writer: ReportWriter):
        self._preference, self._writer = preference, writer
        self._lse_preference = AUTO if preference == HOST else preference
        self._choices: dict[tuple[Device, int, bool], Choice] = {}  # TIMING is held to decide
        self._timed: list[Choice] = []
        self._gave_lse: set[Device] = set()
        self._texts: dict[Device, str] = {}
        self._noting = threading.Lock()

    def for_call(self, options: dict[str, Any], tokens: int) -> Attend:
        """Return the attention for a model call of `tokens` tokens; options: the call's transformer_options.

        A backend that has been chosen is looked up here, before the model runs: compiled code then traces no choice.
        It is chosen within the first call of such a number of tokens, once for few queries and once for many. Attention
        to less than half as many keys (speech, text) is the host's: it is little work, and no measure for the rest.
        """
        device = _device_of(options)
        if foreign_override(options) is not None:
            if device not in self._gave_lse:
                self._note(device, FOREIGN)
            few = many = self._served(None, options, device)
        else:
            few, many = (self._for_queries(options, device, tokens, many) for many in (False, True))
        masked = self._masked(options)

        def serve(
            q: Tensor, k: Tensor, v: Tensor, *, need_lse: bool = False, mask: Tensor | None = None
        ) -> tuple[Tensor, Tensor | None]:
            if mask is not None:
                return masked(q, k, v, need_lse=need_lse, mask=mask)
            if 2 * k.shape[1] < tokens and not need_lse:
                return _host(q, k, v, options), None
            return (many if q.shape[1] >= MANY_QUERIES else few)(q, k, v, need_lse=need_lse)

        return self._sparsely(self._preferring(serve, options), options)

    def _sparsely(self, serve: Attend, options: dict[str, Any]) -> Attend:
        """Return `serve` for calls that the run's sparse attention, if it has one, does not take."""
        run: SparseRun | None = options.get(SPARSE_RUN_KEY)
        if run is None:
            return lambda *tensors, selected=None, **asked: serve(*tensors, **asked)

        def attend_sparsely(
            q: Tensor, k: Tensor, v: Tensor, *, selected: Tensor | None = None, **asked: Any
        ) -> tuple[Tensor, Tensor | None]:
            def dense(*tensors: Tensor) -> Tensor:
                with run.closed():
                    return serve(*tensors, **asked)[0]

            if asked.get("need_lse"):
                run.stays_dense(NEEDS_LSE)
            elif run.is_open and selected is not None:
                is_masked = asked.get("mask") is not None
                scale, name = q.shape[-1] ** -0.5, f"selected rows, {self._preference}"
                out = run.attend(AttentionCall(q, k, v, scale, dense, selected, is_masked, name))
                if out is not None:
                    return out, None
            with run.closed():
                return serve(q, k, v, **asked)

        return no_compile(attend_sparsely)

    def _preferring(self, serve: Attend, options: dict[str, Any]) -> Attend:
        """Return `serve`, or what a layer asks for instead, as in full steps; an override goes before both."""
        is_overridden, device = foreign_override(options) is not None, _device_of(options)
        note = no_compile(self._note)

        def prefer(
            q: Tensor, k: Tensor, v: Tensor, *, preferred: Any = None, **asked: Any
        ) -> tuple[Tensor, Tensor | None]:
            if preferred is None or is_overridden or asked.get("need_lse"):
                return serve(q, k, v, **asked)
            note(device, PREFERRED)
            return _host(q, k, v, options, asked.get("mask"), preferred_attention=preferred), None

        return prefer

    def _masked(self, options: dict[str, Any]) -> Attend:
        """Return attention for calls with a mask: the host's, or the reference where the log-sum-exp is asked for."""
        name = FOREIGN if foreign_override(options) is not None else HOST_NAME
        note, device = no_compile(self._note), _device_of(options)

        def serve(
            q: Tensor, k: Tensor, v: Tensor, *, need_lse: bool = False, mask: Tensor | None = None
        ) -> tuple[Tensor, Tensor | None]:
            if need_lse:
                note(device, "'reference', with log-sum-exp and a mask")
                return attend_reference(q, k, v, need_lse=True, mask=mask)
            note(device, name)
            return _host(q, k, v, options, mask), None

        return serve

    def _for_queries(self, options: dict[str, Any], device: Device, tokens: int, many: bool) -> Attend:
        choice = self._choices.get((device, tokens, many))
        if choice is None:
            return self._deciding(options, device, tokens)
        return self._served(choice, options, device)

    def _served(self, choice: Choice | None, options: dict[str, Any], device: Device) -> Attend:
        """Return attention by a choice made before; None: another node's attention, which gives no log-sum-exp."""
        name = None if choice is None or choice.backend is HOST_BACKEND else choice.backend.name
        decide_for_lse = no_compile(self._decide_for_lse) if choice is None else None

        def serve(q: Tensor, k: Tensor, v: Tensor, *, need_lse: bool = False) -> tuple[Tensor, Tensor | None]:
            if need_lse:
                if decide_for_lse is not None:
                    decide_for_lse(q, k, v, device)
                return attend(q, k, v, need_lse=True, preference=self._lse_preference)
            if name is None:
                return _host(q, k, v, options), None
            return attend(q, k, v, preference=name)

        return serve

    def _deciding(self, options: dict[str, Any], device: Device, tokens: int) -> Attend:
        decide, decide_for_lse = no_compile(self._decide), no_compile(self._decide_for_lse)

        def serve(q: Tensor, k: Tensor, v: Tensor, *, need_lse: bool = False) -> tuple[Tensor, Tensor | None]:
            choice = decide_for_lse(q, k, v, device) if need_lse else decide(q, k, v, device, tokens)
            return self._served(choice, options, device)(q, k, v, need_lse=need_lse)

        return serve

    def _decide(self, q: Tensor, k: Tensor, v: Tensor, device: Device, tokens: int) -> Choice:
        problem = Problem.of(q, k, v)
        key = device, tokens, problem.has_many_queries
        with TIMING:
            known = self._choices.get(key)
            if known is not None:
                return known
            began = time.perf_counter()  # not before: to wait for another device's choice is no timing
            with lasting_memory():
                choice = DISPATCHER.choose(q, k, v, problem, self._preference, HOST_BACKEND)
            self._choices[key] = choice
            seconds = self._tuning_seconds(choice, began)
        ratio = choice.ratio_to(HOST_NAME)
        if choice.backend is HOST_BACKEND:
            text = HOST_NAME
        elif ratio is not None:
            text = f"'{choice.backend.name}', timed {ratio:.2f}x as fast as {HOST_NAME}"
        else:
            text = f"'{choice.backend.name}', {choice.why}"
        self._note(device, text, seconds)
        return choice

    def _decide_for_lse(self, q: Tensor, k: Tensor, v: Tensor, device: Device) -> Choice:
        self._gave_lse.add(device)
        with TIMING:
            began = time.perf_counter()
            with lasting_memory():
                choice = DISPATCHER.choose(q, k, v, Problem.of(q, k, v, need_lse=True), self._lse_preference)
            seconds = self._tuning_seconds(choice, began)
        self._note(device, f"'{choice.backend.name}', with log-sum-exp", seconds)
        return choice

    def _tuning_seconds(self, choice: Choice, began: float) -> float:
        """Return the seconds since `began` where they went into timing a choice for the first time."""
        if not choice.measured or choice in self._timed:
            return 0.0
        self._timed.append(choice)
        return time.perf_counter() - began

    def _note(self, device: Device, text: str, seconds: float = 0.0) -> None:
        """Write down a device's newest backend, or all devices' if they differ, and the seconds that choosing took."""
        with self._noting:
            self._texts[device] = text
            if len(set(self._texts.values())) > 1:
                text = "; ".join(sorted(f"{each} on {where}" for where, each in self._texts.items()))
            self._writer.attention(text, seconds)


def _device_of(options: dict[str, Any]) -> Device:
    """Return the device of a model call, which its noise level is on."""
    return getattr(options.get("sigmas"), "device", None)
