"""Describes the schedules that a search found, as text."""

from __future__ import annotations

from collections.abc import Sequence

from ..host.search.view import SearchRun
from ..schedules import Schedule
from ..search.problem.result import FoundSchedule, SearchResult

USE = (
    "To use one: press R in the graph, then choose it by name in Astraea Accelerate; or link the schedule output, "
    "which holds the one for the first budget."
)


def search_text(run: SearchRun, budgets: Sequence[float]) -> str:
    """Return the cost, then per budget the result expected of its schedule, then the folder and how to use one."""
    result = run.result
    lines = [_headline(run)]
    by_budget = {found.budget: (found, schedule) for found, schedule in zip(result.best, run.schedules, strict=True)}
    for budget in budgets:
        lines.append("")
        lines += (
            _describe(*by_budget[budget], result) if budget in by_budget else [f"Budget {budget:.2f}: nothing found"]
        )
    lines += ["", f"Saved in {run.folder}", USE]
    return "\n".join(lines)


def _headline(run: SearchRun) -> str:
    cached = f", {run.cache_hits} of them taken from before" if run.cache_hits else ""
    found = "1 schedule" if len(run.schedules) == 1 else f"{len(run.schedules)} schedules"
    return (
        f"Astraea Search: {found} found with the work of {run.result.cost:.1f} clips "
        f"({run.runs} candidate runs{cached})"
    )


def _describe(found: FoundSchedule, schedule: Schedule, result: SearchResult) -> list[str]:
    return [
        f"Budget {found.budget:.2f}: {schedule.name}",
        f"  expected: {found.speedup:.2f}x the speed, {found.psnr:.1f} dB (closeness to the original; more is better)",
        f"  computes {_share(found, schedule)}, compared on {_clips(len(found.losses))}",
        f"  {_against_auto(found, result)}",
    ]


def _share(found: FoundSchedule, schedule: Schedule) -> str:
    if not schedule.has_partial_steps:
        return f"{schedule.mean_budget:.0%} of the steps"
    return f"{schedule.mean_budget:.0%} of the video in the time of {found.budget:.0%}"


def _clips(count: int) -> str:
    return "1 clip" if count == 1 else f"{count} clips"


def _against_auto(found: FoundSchedule, result: SearchResult) -> str:
    if found.is_baseline:
        return "nothing is expected to beat what 'auto' does without a search, so you get that"
    baseline = result.baseline_for(found.budget)
    if baseline is None:
        return "there was no run as 'auto' makes it to compare with"
    usual = f"'auto' ({baseline.psnr:.1f} dB at {baseline.speedup:.2f}x)"
    against = f"{found.psnr - baseline.psnr:+.1f} dB against {usual}"
    if len(found.losses) == 1:
        return against
    closer = sum(own < other for own, other in zip(found.losses, baseline.losses, strict=False))
    return f"{against}, closer on {closer} of {_clips(len(found.losses))}"
