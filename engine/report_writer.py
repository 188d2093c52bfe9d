"""Writes a run's report from what ran: one record per model call, and at the end what differs from what was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from .calls.base import Call
from .device_timer import Clock
from .report import CallRecord, Report

NOTED_SHORTFALL = 0.01
NOTED_EXCESS = 0.03


class RunRecords:
    """The calls of one run in its report.

    sigmas, evaluations: of the run's steps; whole_steps: whether a budget was asked for that only whole steps spend.
    """

    def __init__(self, report: Report, sigmas: Sequence[float], evaluations: Sequence[int], whole_steps: bool):
        self._report, self._sigmas, self._evaluations = report, sigmas, evaluations
        self._whole_steps = whole_steps
        self._durations: list[tuple[CallRecord, Callable[[], float]]] = []

    def add(self, call: Call, budget: float, device: torch.device) -> None:
        """A call is over. Another pack may have skipped its model, or made blocks run whole: that is what counts."""
        clock, rows, video = Clock(device), sum(group.count for group, _ in call.groups), call.layout.video
        kind, reason, computed = call.kind, call.reason, call.computed_tokens
        if call.was_skipped:
            kind, reason = "skipped", ""
        elif call.blocks_whole:
            kind = "full" if computed >= video else kind
            reason = f"{call.blocks_whole} of {call.blocks_run} blocks: {call.whole_reason}"
        record = CallRecord(call.step, call.sigma, budget, kind, computed * rows, video * rows)
        record.reason = reason
        self._report.calls.append(record)
        self._durations.append((record, clock.between(call.start, clock.mark())))

    def finish(self, steps_without_call: Iterable[int]) -> None:
        """Resolve the durations and note what went otherwise than planned.

        steps_without_call: those that the sampler went through though no call came this far.
        """
        for record, seconds in self._durations:
            record.seconds = seconds()
        self._durations.clear()
        self._add_skipped_steps(steps_without_call)
        self._explain()

    def _add_skipped_steps(self, steps_without_call: Iterable[int]) -> None:
        """Another pack answered them before the model was asked."""
        calls, seen = self._report.calls, {call.step for call in self._report.calls}
        missing = sorted(step for step in set(steps_without_call) - seen if step < len(self._evaluations))
        if not missing or not seen:
            return
        usual = max(sum(c.tokens for c in calls if c.step == step) / self._evaluations[step] for step in seen)
        for step in missing:
            tokens = round(usual * self._evaluations[step])
            calls.append(CallRecord(step, self._sigmas[step], 1.0, "skipped", 0, tokens))
        calls.sort(key=lambda call: call.step)

    def _explain(self) -> None:
        report = self._report
        calls = report.calls
        for reason in dict.fromkeys(call.reason for call in calls if call.reason):
            affected = [call for call in calls if call.reason == reason]
            how = "in full" if all(call.kind == "full" for call in affected) else "in part in full"
            report.note(f"{len(affected)} of {len(calls)} calls ran {how}: {reason}")
        skipped = sum(call.kind == "skipped" for call in calls)
        if skipped:
            report.note(f"{skipped} of {len(calls)} calls were answered by another node, without the model")
        if not skipped and not any(call.reason for call in calls):
            self._explain_difference()

    def _explain_difference(self) -> None:
        """Notes why a run without unplanned full or skipped calls spent more or less than its budget."""
        report = self._report
        if len({call.step for call in report.calls}) < report.steps:
            return
        if report.computed_share - report.asked_budget > NOTED_EXCESS:
            if reason := self._reason_for_excess():
                report.note(f"{report.computed_share:.0%} is computed, more than was asked for: {reason}")
        elif self._whole_steps and report.asked_budget - report.computed_share > NOTED_SHORTFALL:
            computed = f"{sum(call.kind != 'reuse' for call in report.calls)} of {len(report.calls)} model calls"
            report.note(f"{computed} are computed: no further whole step fits into the budget")

    def _reason_for_excess(self) -> str:
        """Empty where a note of its own tells already that more is computed, as without room for the caches."""
        last = self._report.steps - 1
        full = {call.step for call in self._report.calls if call.kind == "full"}
        if full <= {0}:
            return "the first step of a run always is"
        if full <= {0, last}:
            return "the first and the last step of a run are"
        tokens = [0] * self._report.steps
        for call in self._report.calls:
            tokens[call.step] += call.tokens
        per_call = {count / calls for count, calls in zip(tokens, self._evaluations, strict=True)}
        return "the model was called more often at some steps than was planned" if len(per_call) > 1 else ""
