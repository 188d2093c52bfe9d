"""Formats a report as text for users, and as a row per step for plots. No host, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.report import FULL, KINDS, TOKEN, CallRecord, Report
from ..schedules import DEFAULT_MODE, expected_from

MAX_SKIPPING = 0.1  # of the model's seconds, spent at steps that are not computed
# Said instead of a gain where equal steps took unequally long.
UNEVEN = "steps took too unequally long to compare: run it again"


@dataclass(frozen=True)
class StepRow:
    """All model calls of one step. share: computed tokens over all tokens; seconds: of the mean call."""

    step: int
    sigma: float
    budget: float
    kind: str
    share: float
    calls: int
    seconds: float
    reason: str


def step_rows(report: Report) -> list[StepRow]:
    """Return a row for each step that the run reached, in order."""
    steps: dict[int, list[CallRecord]] = {}
    for call in report.calls:
        steps.setdefault(call.step, []).append(call)
    return [_row(step, steps[step]) for step in sorted(steps)]


def _row(step: int, calls: list[CallRecord]) -> StepRow:
    first = calls[0]
    return StepRow(
        step=step,
        sigma=first.sigma,
        budget=first.budget,
        kind=min((call.kind for call in calls), key=KINDS.index),
        share=sum(call.computed for call in calls) / max(1, sum(call.tokens for call in calls)),
        calls=len(calls),
        seconds=sum(call.seconds for call in calls) / len(calls),
        reason="; ".join(dict.fromkeys(call.reason for call in calls if call.reason)),
    )


def report_text(report: Report, with_steps: bool = False) -> str:
    """Format the report, heading first; with a table of its steps if that is asked for."""
    facts = _sparse(report) if report.sparse and not report.calls else _facts(report)
    lines = [_heading(report), "", *_aligned(facts)]
    if report.notes:
        lines += ["", "Notes", *(f"  - {note}" for note in report.notes)]
    rows = step_rows(report)
    if rows and with_steps:
        lines += ["", *_table(rows)]
    return "\n".join(lines)


def _heading(report: Report) -> str:
    if not report.calls and report.sparse:
        is_sparse = report.sparse["calls"] > 0
        return "Astraea Sparse Attention" if is_sparse else "Astraea Sparse Attention: nothing was changed"
    if not report.calls:
        return "Astraea: nothing was accelerated"
    if report.computed_share >= 1.0:
        return "Astraea: every step was computed in full"
    return f"Astraea: {gain_line(report)}"


def gain_line(report: Report) -> str:
    """Format the gain of a run with calls: "2.2× · 1:41 instead of about 3:47 · 12 of 30 steps computed"."""
    parts = [f"{report.steps_computed} of {report.steps} steps computed"]
    if any(call.kind == TOKEN for call in report.calls):
        parts = [f"{report.computed_share:.0%} of the tokens computed"]
    spent, original = report.usual_seconds, report.original_seconds
    if original is not None and report.finished and spent > 0.0:
        if original <= spent:
            return " · ".join([*_without_gain(report, spent, original), *parts])
        return " · ".join([f"{original / spent:.1f}×", f"{clock(spent)} instead of about {clock(original)}", *parts])
    if report.speedup is not None and report.speedup > 1.0:
        return " · ".join([f"{report.speedup:.1f}×", *parts])
    unknown = report.speedup is None and report.computed_share < 1.0  # no full step to compare with
    return " · ".join(parts if unknown else ["no faster", *parts])


def _without_gain(report: Report, spent: float, original: float) -> list[str]:
    """Return what is said of a run that took as long as its estimate in full, or longer."""
    if was_disturbed(report):
        return [f"{clock(spent)}, {UNEVEN}"]
    return ["no faster", f"{clock(spent)}, about {clock(original)} in full"]


def was_disturbed(report: Report) -> bool:
    """Tell whether a run gained nothing although it skipped whole steps in no time: only unequal steps explain it."""
    original = report.original_seconds
    if original is None or original > report.usual_seconds or not report.finished:
        return False
    skipped = sum(call.seconds for call in report.calls if call.kind != FULL)
    is_quick = skipped <= MAX_SKIPPING * report.model_seconds
    return report.computed_share < 1.0 and is_quick and not any(call.kind == TOKEN for call in report.calls)


def clock(seconds: float) -> str:
    """Format a duration as on a video player: 0.8 s, 41 s, 1:41, 1:02:05."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _aligned(facts: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in facts)
    return [f"{name:<{width}}  {value}" for name, value in facts]


def _facts(report: Report) -> list[tuple[str, str]]:
    counts = ", ".join(f"{count} {kind}" for kind, count in report.counts().items() if count)
    aim = f", aiming at {report.target_speedup:g}x" if report.target_speedup else ""
    facts = [
        ("Schedule", report.schedule + ("" if report.mode in ("", DEFAULT_MODE) else f" (mode {report.mode})")),
        ("Model family", report.family or "-"),
        *([("Devices", report.devices)] if report.devices else []),
        ("Steps", f"{report.steps}, model calls: {counts or 'none'}"),
        ("Budget", f"asked {report.asked_budget:.1%}{aim}, kept {report.computed_share:.1%}"),
        ("Tokens per call", _token_counts(report)),
        ("Time", _time(report)),
        ("Speed-up", _speedups(report)),
        *_expected(report),
        ("Cache", _cache(report)),
    ]
    if report.attention:
        facts.append(("Attention", report.attention))
    facts += _sparse(report)
    if not report.finished and report.calls:
        facts.append(("Ended", "early, by an interrupt or an error"))
    if report.choice:
        facts.insert(1, ("Chosen by", report.choice))
    return facts


def _sparse(report: Report) -> list[tuple[str, str]]:
    """Return what sparse attention did, and how many heads took what."""
    if not report.sparse:
        return []
    facts = [("Sparse attention", str(report.sparse["line"]))]
    choices: dict[str, int] = report.sparse["choices"]
    if choices:
        total = sum(choices.values())
        shares = sorted(choices.items(), key=lambda item: -item[1])
        facts.append(("Heads took", ", ".join(f"{name} {count / total:.0%}" for name, count in shares)))
    return facts


def _token_counts(report: Report) -> str:
    counts = sorted({call.tokens for call in report.calls})
    return " or ".join(f"{count:,}" for count in counts) or "-"


def _time(report: Report) -> str:
    text = f"{report.model_seconds:.2f} s in the model, {report.seconds:.2f} s for the whole sampler"
    if report.tuning_seconds < 0.005:
        return text
    return f"{text}; {report.tuning_seconds:.2f} s of it timed this device's attention kernels, once"


def _speedups(report: Report) -> str:
    if report.calls and report.computed_share >= 1.0:
        return "none: every step was computed in full"
    measured = f"{report.speedup:.2f}x measured" if report.speedup is not None else "no full step to measure it against"
    return f"{measured}, {report.ideal_speedup:.2f}x ideal by the cost model"


def _expected(report: Report) -> list[tuple[str, str]]:
    """Return the schedule's expected result and the measured figures, and below them the runs that it holds for."""
    if not report.calls:
        return []
    expected = expected_from(report.expected)
    if expected is None:
        return [("Promised", report.expected_note)] if report.expected_note else []
    seconds = f", {expected.seconds:.2f} s in the model" if expected.seconds is not None else ""
    line = f"{expected.speedup:.2f}x, {expected.psnr_db:.1f} dB{seconds}"
    if report.finished:
        gained = f"{report.speedup:.2f}x, " if report.speedup is not None else ""
        line += f"; measured {gained}{report.model_seconds - report.tuning_seconds:.2f} s"
    given = ", ".join([*expected.conditions(), *filter(None, [expected.device])])
    below = f"{f'for {given}; ' if given else ''}to measure the dB, compare with a dense run: Astraea Compare"
    return [("Promised", line), ("", below)]


def _cache(report: Report) -> str:
    if not report.cache_bytes:
        return "nothing kept"
    return (
        f"{_mib(report.cache_bytes)} held ({report.cache_policy}), {_mib(report.announced_bytes)} announced to ComfyUI"
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _table(rows: list[StepRow]) -> list[str]:
    head = f"{'step':>4}  {'sigma':>7}  {'budget':>6}  {'kind':<7}  {'computed':>8}  {'calls':>5}  {'s/call':>7}"
    body = [
        f"{row.step + 1:>4}  {row.sigma:>7.4f}  {row.budget:>6.2f}  {row.kind:<7}  {row.share:>8.1%}  {row.calls:>5}  "
        f"{row.seconds:>7.3f}{'  ' + row.reason if row.reason else ''}"
        for row in rows
    ]
    return [head, *body]
