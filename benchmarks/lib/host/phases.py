"""Profiles of model calls: seconds in attention, in the engine's own work and in the rest. Never used in timed runs.

The engine's methods are wrapped for the length of a profiled run. On a GPU, events mark the moments, so that the
device does not wait.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .harness import Job, accelerated, sample, synchronise

TIMES_KEY = "astraea_benchmark_phases"
TOTAL, ATTENTION = "total", "attention"


def engine_methods() -> dict[str, tuple[type, str]]:
    """Phase → the class and method that spends it. `rows` is the blocks' own work, not the engine's."""
    from astraea.engine.calls import ModelCall, RecordingCall, TokenCall
    from astraea.models.wan import WanRunner

    return {
        "selection": (TokenCall, "begin"),
        "rows": (WanRunner, "forward_tokens"),
        "estimate and store": (TokenCall, "_residuals"),
        "token blocks": (TokenCall, "forward"),
        "record": (RecordingCall, "_record"),
        "preparation": (RecordingCall, "begin"),
        "prediction": (ModelCall, "end"),
    }


class PhaseTimer:
    """Collects durations by phase for each model call of the models it is attached to."""

    def __init__(self, device: Any):
        from astraea.engine.report.device_timer import DeviceTimer

        self._timer, self._device = DeviceTimer(device), device
        self._calls: list[dict[str, list[Callable[[], float]]]] = []

    def _timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = self._timer.mark()
            result = function(*args, **kwargs)
            self._calls[-1].setdefault(phase, []).append(self._timer.between(began, self._timer.mark()))
            return result

        return timed

    def attached(self, model: Any) -> Any:
        """A clone of the MODEL whose calls and attention are timed. Accelerate the clone, not the original."""
        from comfy.patcher_extension import WrappersMP

        def call(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self._calls.append({})
            return self._timed(TOTAL, executor)(*args, **kwargs)

        def attention(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return self._timed(ATTENTION, original)(*args, **kwargs)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, TIMES_KEY, call)
        clone.model_options["transformer_options"]["optimized_attention_override"] = attention
        return clone

    @contextmanager
    def engine_watched(self) -> Iterator[None]:
        """Times the engine's methods within the context, and restores them afterwards."""
        methods = engine_methods()
        originals = {phase: vars(owner)[name] for phase, (owner, name) in methods.items()}
        try:
            for phase, (owner, name) in methods.items():
                setattr(owner, name, self._timed(phase, originals[phase]))
            yield
        finally:
            for phase, (owner, name) in methods.items():
                setattr(owner, name, originals[phase])

    def calls(self) -> list[dict[str, float]]:
        """Seconds by phase of each model call since the last `calls`. Waits for the device."""
        synchronise(self._device)
        found = [{phase: sum(end() for end in ends) for phase, ends in call.items()} for call in self._calls]
        self._calls.clear()
        return found


def shares(calls: list[dict[str, float]], dense_seconds: float) -> dict[str, float]:
    """Median seconds by phase as shares of a dense step.

    `joining` is the work of a token step's blocks around their rows; `rest` is the time in no named phase: outside the
    blocks and, in steps that run the host's own blocks, in these without their attention.
    """
    split = [_disjoint(call) for call in calls]
    phases = sorted({phase for call in split for phase in call})
    return {p: round(statistics.median(call.get(p, 0.0) for call in split) / dense_seconds, 5) for p in phases}


def _disjoint(call: dict[str, float]) -> dict[str, float]:
    """Nested phases made disjoint: all but `total` add up to it."""
    found = dict(call)
    if "token blocks" in found:
        blocks, rows = found.pop("token blocks"), found.pop("rows")
        found["joining"] = blocks - rows - found["estimate and store"]
        found["rows, without attention"] = rows - found[ATTENTION]
    found["rest"] = 2 * found[TOTAL] - sum(found.values())
    return found


def profile(model: Any, device: Any, job: Job, schedule: Any, budget: float) -> dict[str, Any]:
    """Shares of a dense step by phase, for dense steps, recording full steps and token steps at the budget."""
    timer = PhaseTimer(device)
    base = timer.attached(model)
    sample(base, job)
    dense = timer.calls()[1:]
    fast, handle = accelerated(base, schedule)
    with timer.engine_watched():
        sample(fast, job)
    calls = timer.calls()
    step = statistics.median(call["total"] for call in dense)
    kinds = [call.kind for call in handle.last.calls]
    token = [call for call, kind in zip(calls, kinds, strict=True) if kind == "token"]
    return {
        "dense_step_seconds": step,
        "dense step": shares(dense, step),
        "full step that records": shares(calls[:1], step),
        f"token step at {budget}": shares(token, step),
    }
