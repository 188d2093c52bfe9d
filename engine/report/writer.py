"""Writes a run's report from what ran: its settings, one record per model call, and what differs from the request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..planning.resolve import RunSettings
from ..sampler.profile import SamplerProfile
from . import ANSWERED, FULL, REUSE, CallRecord, Report

NOTED_SHORTFALL, NOTED_EXCESS = 0.01, 0.03  # of a run's tokens, against its budget: the report says why
OTHER_LEVELS = "the model was given other noise levels than the sampler's: steps were counted by the sampler"


class ReportWriter:
    """The only owner of a run's report."""

    def __init__(self, settings: RunSettings, profile: SamplerProfile, family: str = ""):
        self._settings, self._profile = settings, profile
        expected = settings.expected
        self.report = Report(
            schedule=settings.schedule.name,
            choice=settings.choice,
            mode=settings.mode.name,
            family=family,
            steps=profile.steps,
            asked_budget=settings.asked_budget,
            target_speedup=settings.target_speedup,
            ideal_speedup=settings.ideal_speedup,
            expected=expected.as_dict() if expected is not None else None,
            expected_note=settings.expected_note,
        )
        self._durations: list[tuple[CallRecord, Callable[[], float]]] = []
        for note in settings.notes:
            self.note(note)

    def note(self, text: str) -> None:
        """Add a remark once; "" adds none."""
        if text and text not in self.report.notes:
            self.report.notes.append(text)

    def withdraw_expectation(self) -> None:
        """Take back the expected result: the run goes on otherwise than its schedule says."""
        self.report.expected = None

    def announce(self, nbytes: int) -> None:
        """Write down the bytes that the host was asked to keep free."""
        self.report.announced_bytes = nbytes

    def attention(self, text: str, tuning_seconds: float = 0.0) -> None:
        """Write down the backend that computes the attention of token steps, and the time spent on choosing it."""
        self.report.attention = text
        self.report.tuning_seconds += tuning_seconds

    def sparse(self, figures: dict[str, Any], notes: Iterable[str], tuning_seconds: float) -> None:
        """Write down what sparse attention did in the run, its remarks, and the time spent on comparing times."""
        self.report.sparse = figures
        self.report.tuning_seconds += tuning_seconds
        for note in notes:
            self.note(note)

    def cache(self, nbytes: int, policy: str) -> None:
        """Write down the bytes held after a call; the report states the most. policy: "" without a per-block store."""
        self.report.cache_bytes = max(self.report.cache_bytes, nbytes)
        self.report.cache_policy = policy or ("whole steps" if nbytes else "none")

    def add(self, record: CallRecord, duration: Callable[[], float]) -> None:
        """Add a call that is over; its duration is resolved at the end."""
        self.report.calls.append(record)
        self._durations.append((record, duration))

    def finish(self, steps_without_call: Iterable[int], levels_differ: bool) -> Report:
        """Resolve the durations and note all differences from the plan.

        steps_without_call: steps of the sampler in which no model call reached this pack; levels_differ: the model was
        given other noise levels than the sampler's.
        """
        if levels_differ and not self._settings.is_full:
            self.note(OTHER_LEVELS)
        for record, seconds in self._durations:
            record.seconds = seconds()
        self._durations.clear()
        self._add_answered_steps(steps_without_call)
        self._explain()
        return self.report

    def close(self, seconds: float, finished: bool) -> Report:
        """Complete the report with the whole sampler's seconds, and whether it came to its end."""
        self.report.seconds, self.report.finished = seconds, finished
        return self.report

    def _add_answered_steps(self, steps_without_call: Iterable[int]) -> None:
        """Add steps that another pack answered before the model was asked."""
        calls, seen = self.report.calls, {call.step for call in self.report.calls}
        calls_per_step = self._profile.calls_per_step
        missing = sorted(step for step in set(steps_without_call) - seen if step < len(calls_per_step))
        if not missing or not seen:
            return
        usual = max(sum(c.tokens for c in calls if c.step == step) / calls_per_step[step] for step in seen)
        for step in missing:
            tokens = round(usual * calls_per_step[step])
            calls.append(CallRecord(step, self._profile.levels[step], 1.0, ANSWERED, 0, tokens))
        calls.sort(key=lambda call: call.step)

    def _explain(self) -> None:
        calls = self.report.calls
        for reason in dict.fromkeys(call.reason for call in calls if call.reason):
            affected = [call for call in calls if call.reason == reason]
            how = "in full" if all(call.kind == FULL for call in affected) else "in part in full"
            self.note(f"{len(affected)} of {len(calls)} calls ran {how}: {reason}")
        answered = sum(call.kind == ANSWERED for call in calls)
        if answered:
            self.note(f"{answered} of {len(calls)} calls were answered by another node, without the model")
        if not answered and not any(call.reason for call in calls):
            self._explain_difference()

    def _explain_difference(self) -> None:
        """Note why a run without unplanned full or answered calls spent more or less than its budget."""
        report = self.report
        if len({call.step for call in report.calls}) < report.steps:
            return
        excess = report.computed_share - report.asked_budget
        if excess > NOTED_EXCESS:
            if reason := self._reason_for_excess():
                self.note(f"{report.computed_share:.0%} is computed, more than was asked for: {reason}")
        elif report.target_speedup is None and self._settings.is_step_skipping and -excess > NOTED_SHORTFALL:
            computed = f"{sum(call.kind != REUSE for call in report.calls)} of {len(report.calls)} model calls"
            self.note(f"{computed} are computed: no further whole step fits into the budget")

    def _reason_for_excess(self) -> str:
        """Return why more was computed; "" where another note says so, for example that memory was short."""
        if self._settings.excess_note:
            return ""
        last = self.report.steps - 1
        full = {call.step for call in self.report.calls if call.kind == FULL}
        if full <= {0}:
            return "the first step of a run is always computed in full"
        if full <= {0, last}:
            return "the first and the last step were computed in full"
        tokens = [0] * self.report.steps
        for call in self.report.calls:
            tokens[call.step] += call.tokens
        per_call = {count / calls for count, calls in zip(tokens, self._profile.calls_per_step, strict=True)}
        return "the model was called more often at some steps than was planned" if len(per_call) > 1 else ""


def pass_through_report(schedule: str, note: str) -> Report:
    """Return the report of a model that is not accelerated."""
    return Report(schedule=schedule, notes=[note])
