"""The report of a run, step by step: plain data from which every log line, text and plot is made."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

FULL, TOKEN, REUSE, ANSWERED = KINDS = ("full", "token", "reuse", "answered")


@dataclass
class CallRecord:
    """One model call, as it ran.

    kind: one of KINDS, ANSWERED where another pack answered in the model's place; computed, tokens: over all rows;
    reason: why it, or some of its blocks, ran in full though that was not planned; or "".
    """

    step: int
    sigma: float
    budget: float
    kind: str
    computed: int
    tokens: int
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Report:
    """The record of one run, as plain data; `ReportWriter` is the only one to write it.

    devices: over which processes the run was spread, "" for one process;
    tuning_seconds: spent on timing this device's attention kernels, once; part of a call, but of no later run.
    sparse: what sparse attention did, see `engine.sparse.figures`; None where it was not asked for.
    expected: result that the schedule leads to expect, plain values as in its file; expected_note: why there is none
    for this run.
    """

    schedule: str = ""
    choice: str = ""
    mode: str = ""
    family: str = ""
    devices: str = ""
    steps: int = 0
    asked_budget: float = 1.0
    target_speedup: float | None = None
    ideal_speedup: float = 1.0
    calls: list[CallRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    announced_bytes: int = 0
    cache_bytes: int = 0
    cache_policy: str = "none"
    attention: str = ""
    sparse: dict[str, Any] | None = None
    tuning_seconds: float = 0.0
    expected: dict[str, Any] | None = None
    expected_note: str = ""
    seconds: float = 0.0
    finished: bool = False

    @property
    def computed_share(self) -> float:
        """Tokens computed over tokens that a dense run would have computed."""
        tokens = sum(call.tokens for call in self.calls)
        return sum(call.computed for call in self.calls) / tokens if tokens else 1.0

    @property
    def model_seconds(self) -> float:
        return sum(call.seconds for call in self.calls)

    @property
    def dense_seconds(self) -> float | None:
        """Seconds that the calls would have taken in full, by the run's own full calls; None if there was none.

        The first call warms up (memory, kernels, compilation), so it counts only where it is alone.
        """
        full = [call.seconds / max(call.tokens, 1) for call in self.calls if call.kind == FULL]
        if not full:
            return None
        per_token = statistics.median(full[1:] or full)
        return per_token * sum(call.tokens for call in self.calls)

    @property
    def speedup(self) -> float | None:
        """Measured speed-up of the model calls over full ones of the same run; None where all were full, or none."""
        dense, spent = self.dense_seconds, self.model_seconds - self.tuning_seconds
        if dense is None or spent <= 0 or all(call.kind == FULL for call in self.calls):
            return None
        return dense / spent

    @property
    def usual_seconds(self) -> float:
        """Seconds of the whole sampler, without what was spent once on timing attention kernels."""
        return self.seconds - self.tuning_seconds

    @property
    def original_seconds(self) -> float | None:
        """Estimate of the seconds that the whole sampler takes without acceleration; None where that is unknown.

        What the first call took to warm up, it would have taken then, too.
        """
        if self.speedup is None or self.dense_seconds is None:
            return None
        around = max(0.0, self.seconds - self.model_seconds)
        first = self.calls[0]
        usual = self.dense_seconds * first.tokens / max(sum(call.tokens for call in self.calls), 1)
        warm_up = max(0.0, first.seconds - usual - self.tuning_seconds) if first.kind == FULL else 0.0
        return around + self.dense_seconds + warm_up

    @property
    def steps_computed(self) -> int:
        """Number of steps at which the model ran, in full or for a part of the tokens."""
        return len({call.step for call in self.calls if call.kind in (FULL, TOKEN)})

    def counts(self) -> dict[str, int]:
        kinds = [call.kind for call in self.calls]
        return {kind: kinds.count(kind) for kind in KINDS}

    def as_dict(self) -> dict[str, Any]:
        derived = {"computed_share": self.computed_share, "speedup": self.speedup, "dense_seconds": self.dense_seconds}
        return {**asdict(self), **derived}

    def summary(self) -> str:
        """Format one line for the log."""
        if not self.calls and self.sparse:
            return str(self.sparse["line"])
        if not self.calls:
            return f"nothing was accelerated: {'; '.join(self.notes) or 'no model call was made'}"
        gained = f", {self.speedup:.2f}x the speed of full steps" if self.speedup is not None else ""
        counts = self.counts()
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        cache = f", cache {self.cache_bytes / 2**20:.1f} MiB ({self.cache_policy})" if self.cache_bytes else ""
        text = (
            f"{self.steps} steps, {self.computed_share:.1%} of tokens computed ({kinds} calls), "
            f"{self.model_seconds:.2f} s in the model{gained}{cache}"
        )
        return text + (f"; {'; '.join(self.notes)}" if self.notes else "")


class ReportHandle:
    """Collects the reports of the runs of one accelerated model, newest last. The graph carries it.

    on_report: called with each report once it is complete.
    """

    def __init__(self, keep: int = 16, on_report: Callable[[Report], None] | None = None):
        self.reports: deque[Report] = deque(maxlen=keep)
        self._on_report = on_report

    def __deepcopy__(self, memo: dict) -> ReportHandle:
        return self  # the node that reads it must see what the run wrote

    def add(self, report: Report) -> None:
        self.reports.append(report)
        if self._on_report is not None:
            self._on_report(report)

    @property
    def last(self) -> Report | None:
        return self.reports[-1] if self.reports else None
