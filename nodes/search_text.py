"""What a search has found, in lines that a person can read."""

from __future__ import annotations

from collections.abc import Sequence

from ..host.search.session import SearchRun
from ..schedules import Schedule
from ..search.result import FoundSchedule, Result

USE = (
    "To use one: press R in the graph, then choose it by name in Astraea Accelerate; or link the schedule output, "
    "which holds the one for the first budget."
)


def search_text(searched: SearchRun, budgets: Sequence[float]) -> str:
    """Per budget what its schedule promises, then where all are saved, what was spent and how to go on."""
    result = searched.result
    lines = [_headline(searched)]
    by_budget = {
        found.budget: (found, schedule) for found, schedule in zip(result.best, searched.schedules, strict=True)
    }
    for budget in budgets:
        lines.append("")
        lines += (
            _of_budget(*by_budget[budget], result) if budget in by_budget else [f"Budget {budget:.2f}: nothing found"]
        )
    lines += ["", f"Saved in {searched.folder}", USE]
    return "\n".join(lines)


def _headline(searched: SearchRun) -> str:
    known = f", {searched.known} of them taken from before" if searched.known else ""
    return (
        f"Astraea Search: {len(searched.schedules)} schedules found in {searched.result.spent:.1f} dense runs' worth "
        f"of time ({searched.runs} candidate runs{known})"
    )


def _of_budget(found: FoundSchedule, schedule: Schedule, result: Result) -> list[str]:
    return [
        f"Budget {found.budget:.2f}: {schedule.name}",
        f"  promises {found.speedup:.2f}x the speed at {found.psnr:.1f} dB (closeness to the original; more is better)",
        f"  computes {_share(found, schedule)}, judged on {_clips(len(found.losses))}",
        f"  {_against_hand_made(found, result)}",
    ]


def _share(found: FoundSchedule, schedule: Schedule) -> str:
    if not schedule.has_partial_steps:
        return f"{schedule.mean_budget:.0%} of the steps"
    return f"{schedule.mean_budget:.0%} of the video in the time of {found.budget:.0%}"


def _clips(count: int) -> str:
    return "1 clip" if count == 1 else f"{count} clips"


def _against_hand_made(found: FoundSchedule, result: Result) -> str:
    if found.baselines:
        return "nothing is expected to beat the bundled schedule, so this is it"
    rival = next((each for each in result.baselines if each.budget == found.budget), None)
    if rival is None:
        return "there was no bundled schedule of this budget to compare with"
    against = f"{found.psnr - rival.psnr:+.1f} dB against the bundled one ({rival.psnr:.1f} dB at {rival.speedup:.2f}x)"
    if len(found.losses) == 1:
        return against
    closer = sum(own < other for own, other in zip(found.losses, rival.losses, strict=False))
    return f"{against}, closer on {closer} of {_clips(len(found.losses))}"
