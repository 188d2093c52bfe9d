"""A search from its first check to saved schedules, for the node and the command: files, resuming, interrupts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import AstraeaError, SearchError
from ...limits import MAX_SEED
from ...schedules import Schedule, load, save
from ...search.driver import Search
from ...search.evaluation.run_log import RunLog
from ...search.problem.budgets import SO_FAR, name_for
from ...search.problem.config import SearchConfig
from ...search.problem.provenance import as_schedule, is_of_interrupted_search
from ...search.problem.result import SearchResult
from ...search.problem.runner import Runner, SamplingConfig
from ..folders import check_writable, user_schedule_folder, user_search_folder
from .progress import NodeView
from .runner import Case, ComfyRunner
from .samplers import SamplerInputs
from .view import SearchRun, View


@dataclass(frozen=True)
class Folders:
    """Folders of a search's files: schedules, and logs of runs."""

    schedules: Path
    run_logs: Path


def user_folders() -> Folders:
    return Folders(user_schedule_folder(), user_search_folder())


def make_cases(
    prompts: Sequence[Any], negative: Any, latent: dict[str, Any], first_seed: int, count: int
) -> tuple[Case, ...]:
    """Return `count` cases, but at least one per prompt: prompts in turn, each case with the next seed."""
    return tuple(
        Case(prompts[number % len(prompts)], negative, latent, (first_seed + number) % (MAX_SEED + 1))
        for number in range(max(count, len(prompts)))
    )


def search_in_graph(
    model: Any, cases: Sequence[Case], sampling: SamplerInputs, config: SearchConfig, name: str
) -> SearchRun:
    """Search for the node, with its progress bar: see `run_search`."""
    view = NodeView()

    def open_runner() -> AbstractContextManager[Runner]:
        return nullcontext(
            ComfyRunner(
                model,
                cases,
                sampler=sampling.sampler,
                sigmas=sampling.sigmas,
                cfg=sampling.cfg,
                on_step=view.on_step,
            )
        )

    return run_search(open_runner, config, name, user_folders(), view)


def run_search(
    open_runner: Callable[[], AbstractContextManager[Runner]],
    config: SearchConfig,
    name: str,
    folders: Folders,
    view: View,
) -> SearchRun:
    """Search, and save a schedule per budget. Raises SearchError.

    Runs in the log of an earlier search on the same model and sampling are not made again. After an interrupt or an
    error, the best schedules so far are saved before it is raised again.
    open_runner: called after the folders were checked; its context is left at the end of the search.
    """
    for folder in (folders.schedules, folders.run_logs):
        check_writable(folder)
    with open_runner() as runner:
        setting = runner.setting
        run_log = RunLog(folders.run_logs / f"{setting.identity}.jsonl", setting.identity)
        _warn_of_skipped_lines(run_log)
        view.begin(runner, run_log, config)
        search = Search(runner, run_log, config, view.update)
        try:
            result = search.run()
        except BaseException:
            _save_so_far(search, config, name, folders.schedules, view)
            raise
        finally:
            run_log.close()
    schedules = name_schedules(result, setting, config, name)
    save_all(schedules, folders.schedules)
    run = SearchRun(result, schedules, folders.schedules, search.effort.runs, search.effort.cache_hits)
    view.finished(run)
    return run


def name_schedules(
    result: SearchResult, setting: SamplingConfig, config: SearchConfig, name: str
) -> tuple[Schedule, ...]:
    """Return the best schedules with provenance, under the names they are saved by."""
    return tuple(as_schedule(each, result, setting, config, name_for(name, each.budget)) for each in result.best)


def _warn_of_skipped_lines(run_log: RunLog) -> None:
    if run_log.skipped:
        logging.warning(
            f"Astraea search: {run_log.skipped} lines of '{run_log.path}' cannot be read (a crash may have cut them "
            "off) and are skipped; those runs are made again."
        )


def _save_so_far(search: Search, config: SearchConfig, name: str, folder: Path, view: View) -> None:
    """Save the best schedules of a stopped search; a failure must not hide why it was stopped."""
    try:
        result = search.result()
        schedules = name_schedules(result, search.setting, config, name)
        saved = save_all([_beside_finished(each, folder) for each in schedules], folder)
    except Exception as error:  # a full disk, a name that is taken; the error that stopped the search is raised on
        view.not_saved(error)
        return
    view.interrupted(result, saved, config)


def _beside_finished(schedule: Schedule, folder: Path) -> Schedule:
    """Return the schedule, under another name if a finished search has saved one under its own."""
    path = folder / f"{schedule.name}.json"
    try:
        is_taken = path.exists() and not is_of_interrupted_search(load(path))
    except AstraeaError:
        is_taken = True
    return schedule.renamed(schedule.name + SO_FAR) if is_taken else schedule


def save_all(schedules: Sequence[Schedule], folder: Path) -> list[Path]:
    """Save schedules, replacing those of the same names; returns the files.

    A schedule that cannot be saved does not prevent the others. Raises SearchError afterwards, with each reason.
    """
    failures, files = [], []
    for schedule in schedules:
        try:
            files.append(save(schedule, folder, overwrite=True))
        except AstraeaError as error:
            failures.append(f"'{schedule.name}': {error}")
    if failures:
        raise SearchError(
            f"The schedules found could not be saved. {' '.join(failures)} Free some disk space or make the folder "
            "writable, then search again: finished candidate runs are logged, and are not made again."
        )
    return files
