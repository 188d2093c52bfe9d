"""Interface of the views that show a search to its user: the node's and the command's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...schedules import Schedule
from ...search.evaluation.run_log import RunLog
from ...search.problem.config import SearchConfig
from ...search.problem.result import Progress, SearchResult
from ...search.problem.runner import Runner


@dataclass(frozen=True)
class SearchRun:
    """A finished search. schedules: one per entry of result.best, saved in `folder`.

    runs: candidate runs used; cache_hits: how many of them an earlier search had made.
    """

    result: SearchResult
    schedules: tuple[Schedule, ...]
    folder: Path
    runs: int
    cache_hits: int


class View(Protocol):
    """Shows a search to its user."""

    def begin(self, runner: Runner, run_log: RunLog, config: SearchConfig) -> None:
        """The search is about to begin."""
        ...

    def update(self, progress: Progress) -> None:
        """A run has ended. May raise to stop the search."""
        ...

    def interrupted(self, result: SearchResult, saved: Sequence[Path], config: SearchConfig) -> None:
        """The search has been stopped; the best schedules so far are saved in these files."""
        ...

    def not_saved(self, error: Exception) -> None:
        """The search has been stopped, and the best schedules so far could not be saved."""
        ...

    def finished(self, run: SearchRun) -> None:
        """The search has ended; its schedules are saved."""
        ...
