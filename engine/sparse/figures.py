"""Figures of sparse attention in a run: plain data, from which the report's line is made."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

MAX_REASONS = 4  # that the report gives for calls that stayed dense


@dataclass
class SparseFigures:
    """Counts and measurements of one run.

    layers: all that were seen, and those with sparse calls; steps: of the run, and those with sparse calls; computed,
    pairs: of query and key tiles in sparse calls; errors: relative errors of the output on sampled rows, by layer and
    step; choices: heads by what they took; milliseconds: of each call, dense and sparse, by the comparison of times,
    which took tuning_seconds; seconds: of model calls, dense and with sparse attention, but each device's first; dense:
    calls that stayed dense, by reason; remarks: of other kinds.
    """

    layers: set[int] = field(default_factory=set)
    sparse_layers: set[int] = field(default_factory=set)
    steps: int = 0
    sparse_steps: set[int] = field(default_factory=set)
    calls: int = 0
    computed: float = 0.0
    pairs: float = 0.0
    errors: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    choices: Counter = field(default_factory=Counter)
    milliseconds: list[tuple[float, float]] = field(default_factory=list)
    tuning_seconds: float = 0.0
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    dense: Counter = field(default_factory=Counter)
    remarks: set[str] = field(default_factory=set)
    _durations: list[tuple[Hashable, bool, Callable[[], float]]] = field(default_factory=list)

    def add_call(self, is_sparse: bool, duration: Callable[[], float], device: Hashable) -> None:
        """Add a model call that is over; its duration is resolved at the end."""
        self._durations.append((device, is_sparse, duration))

    def add_error(self, layer: int, step: int, error: float) -> None:
        """Add the error of a layer's output; of one that is not finite nothing can be measured."""
        if math.isfinite(error):
            self.errors.setdefault((layer, step), []).append(error)
        else:
            self.remarks.add("attention was not finite: the model's own values are NaN or infinite, often in fp16")

    def resolve(self) -> None:
        """Resolve the durations. The first call on a device also loads and compiles: it is left out."""
        begun = set()
        for device, is_sparse, duration in self._durations:
            if device in begun:
                self.seconds[is_sparse].append(duration())
            begun.add(device)
        self._durations.clear()

    @property
    def computed_share(self) -> float:
        """Share of the tiles' pairs that sparse calls computed."""
        return self.computed / self.pairs if self.pairs else 1.0

    @property
    def error(self) -> float | None:
        """Mean error of the output of sparse attention, over layers and measurements; None without any."""
        measured = [error for errors in self.errors.values() for error in errors]
        return statistics.fmean(measured) if measured else None

    @property
    def layer_errors(self) -> dict[int, float]:
        """Mean error by layer."""
        by_layer: dict[int, list[float]] = {}
        for (layer, _), errors in sorted(self.errors.items()):
            by_layer.setdefault(layer, []).extend(errors)
        return {layer: statistics.fmean(errors) for layer, errors in by_layer.items()}

    @property
    def worst(self) -> tuple[int, float] | None:
        """The layer of the greatest mean error, and that error."""
        return max(self.layer_errors.items(), key=lambda item: item[1], default=None)

    @property
    def attention_speedup(self) -> float | None:
        """Time of dense attention over that of sparse attention, as timed once on this device, over all calls."""
        if not self.milliseconds:
            return None
        return sum(dense for dense, _ in self.milliseconds) / sum(sparse for _, sparse in self.milliseconds)

    @property
    def step_speedup(self) -> float | None:
        """Time of dense model calls over that of sparse ones in this run; None where there is none to compare with."""
        dense, sparse = self.seconds[False], self.seconds[True]
        if not dense or not sparse or statistics.median(sparse) <= 0.0:
            return None
        return statistics.median(dense) / statistics.median(sparse)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data, for the report."""
        worst = self.worst
        return {
            "line": self.line(),
            "layers": len(self.layers),
            "sparse_layers": len(self.sparse_layers),
            "steps": self.steps,
            "sparse_steps": len(self.sparse_steps),
            "calls": self.calls,
            "computed_share": self.computed_share,
            "error": self.error,
            "worst_layer": None if worst is None else worst[0],
            "worst_error": None if worst is None else worst[1],
            "attention_speedup": self.attention_speedup,
            "step_speedup": self.step_speedup,
            "choices": dict(self.choices),
            "layer_errors": [self.layer_errors.get(layer, 0.0) for layer in range(len(self.layers))],
        }

    def line(self) -> str:
        """Format what came of it in one line."""
        if not self.calls:
            few = "" if any(self.dense.keys()) else ": no step comes after those that stay so"
            return f"every attention call was dense{few}"
        parts = [
            f"{len(self.sparse_layers)} of {len(self.layers)} layers, {len(self.sparse_steps)} of {self.steps} steps, "
            f"density {self.computed_share:.2f}"
        ]
        if (error := self.error) is not None and (worst := self.worst) is not None:
            parts.append(
                f"attention output off by {error:.0%} on sampled rows (worst: layer {worst[0] + 1}, {worst[1]:.0%})"
            )
        gains = [(self.attention_speedup, "attention"), (self.step_speedup, "steps")]
        gained = [f"{what} {gain:.2f}x as fast" for gain, what in gains if gain is not None]
        if gained:
            parts.append(", ".join(gained))
        return "; ".join(parts)

    def notes(self) -> list[str]:
        """Return remarks: why calls stayed dense that were not planned to."""
        stayed = [f"{count} call{'s' * (count > 1)} stayed dense: {reason}" for reason, count in self._common_reasons()]
        return [f"sparse attention: {text}" for text in [*stayed, *sorted(self.remarks)]]

    def _common_reasons(self) -> list[tuple[str, int]]:
        return [(reason, count) for reason, count in self.dense.most_common() if reason][:MAX_REASONS]
