"""Where the time of a model call goes: attention, the engine's own work, the rest. Used in runs apart from timed ones.

The engine's methods are wrapped for the length of a profiled run. On a GPU, moments are marked by events, so the
marks do not make the device wait.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness import synchronise

TIMES_KEY = "astraea_benchmark_phases"
TOTAL, ATTENTION = "total", "attention"


def engine_methods() -> dict[str, tuple[type, str]]:
    """Phase → the class and method that it is spent in. `rows` holds the blocks' own work and is no engine phase."""
    from astraea.engine.calls import base as call
    from astraea.models.wan import WanRunner

    return {
        "selection": (call.TokenCall, "begin"),
        "rows": (WanRunner, "run_rows"),
        "estimate and store": (call.TokenCall, "_update"),
        "token blocks": (call.TokenCall, "forward"),
        "record": (call.FullCall, "_record"),
        "preparation": (call.FullCall, "begin"),
        "prediction": (call.ModelCall, "close"),
    }


class PhaseTimer:
    """Collects durations by phase for each model call of the models it is attached to."""

    def __init__(self, device: Any):
        from astraea.engine.device_timer import DeviceTimer

        self._clock, self._device = DeviceTimer(device), device
        self._calls: list[dict[str, list[Callable[[], float]]]] = []

    def _timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = self._clock.mark()
            result = function(*args, **kwargs)
            self._calls[-1].setdefault(phase, []).append(self._clock.between(began, self._clock.mark()))
            return result

        return timed

    def attached(self, model: Any) -> Any:
        """A clone of the MODEL whose calls and attention are timed; accelerate the clone, not the other way round."""
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
        """Within the context the engine's methods are timed; afterwards they are what they were."""
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
        """Seconds by phase, one entry per model call since the last time; waits for the device."""
        synchronise(self._device)
        found = [{phase: sum(end() for end in ends) for phase, ends in call.items()} for call in self._calls]
        self._calls.clear()
        return found


def shares(calls: list[dict[str, float]], dense_seconds: float) -> dict[str, float]:
    """Median seconds by phase as shares of a dense step.

    `joining` is what a token step's blocks do around their rows; `rest` is all that no phase names: what lies outside
    of the blocks and, in steps that run the host's own blocks, these without their attention.
    """
    split = [_disjoint(call) for call in calls]
    phases = sorted({phase for call in split for phase in call})
    return {p: round(statistics.median(call.get(p, 0.0) for call in split) / dense_seconds, 5) for p in phases}


def _disjoint(call: dict[str, float]) -> dict[str, float]:
    """Phases that lie within one another taken apart, so that all but `total` add up to it."""
    found = dict(call)
    if "token blocks" in found:
        blocks, rows = found.pop("token blocks"), found.pop("rows")
        found["joining"] = blocks - rows - found["estimate and store"]
        found["rows, without attention"] = rows - found[ATTENTION]
    found["rest"] = 2 * found[TOTAL] - sum(found.values())
    return found
