"""A search from start to saved schedules: where its files lie, what it samples with, and what is kept when it stops."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import AstraeaError, SearchError
from ...schedules import Schedule, load, save
from ...search.budgets import SO_FAR, name_for
from ...search.driver import Search
from ...search.evaluation.run_log import RunLog
from ...search.problem import SamplingConfig
from ...search.provenance import as_schedule
from ...search.result import Result
from ..folders import check_writable, user_schedule_folder, user_search_folder
from .progress import SearchView
from .runner import Case, ComfyRunner
from .samplers import Sampling

MAX_SEED = 2**64
STOPPED = "interrupted after"  # what the provenance of such a schedule says


@dataclass(frozen=True)
class SearchConfig:
    """What is searched for. effort: dense-run equivalents that may be spent; seed: of the search's own choices."""

    name: str
    budgets: tuple[float, ...]
    effort: float
    seed: int


@dataclass(frozen=True)
class SearchRun:
    """What came of it. schedules: one per entry of result.best; runs, known: candidate runs used, and how many of them
    had been measured by an earlier search.
    """

    result: Result
    schedules: tuple[Schedule, ...]
    folder: Path
    runs: int
    known: int


def cases_of(
    prompts: Sequence[Any], negative: Any, latent: dict[str, Any], first_seed: int, count: int
) -> tuple[Case, ...]:
    """`count` clips, or one per prompt where that is more: the prompts in turn, each clip with the next seed."""
    return tuple(
        Case(prompts[number % len(prompts)], negative, latent, (first_seed + number) % MAX_SEED)
        for number in range(max(count, len(prompts)))
    )


def search(model: Any, cases: Sequence[Case], way: Sampling, order: SearchConfig) -> SearchRun:
    """Search, showing progress, and save a schedule per budget. Raises SearchError.

    What was found before an interrupt or an error is saved too, then the exception goes on.
    """
    for folder in (user_schedule_folder(), user_search_folder()):
        check_writable(folder)
    view = SearchView()
    bench = ComfyRunner(model, cases, sampler=way.sampler, sigmas=way.sigmas, cfg=way.cfg, on_step=view.step)
    view.bench = bench
    setting = bench.setting
    memo = RunLog(user_search_folder() / f"{setting.identity}.jsonl", setting.identity)
    _log_start(memo, setting, order)
    running = Search(bench, memo, budgets=order.budgets, effort=order.effort, seed=order.seed, watch=view)
    try:
        result = running.run()
    except BaseException:
        _keep_so_far(running, setting, order)
        raise
    finally:
        memo.close()
    schedules = named(result, setting, order)
    save_all(schedules, user_schedule_folder())
    searched = SearchRun(result, schedules, user_schedule_folder(), running.runs, running.cache_hits)
    logging.info(
        f"Astraea search: finished after {result.spent:.1f} dense runs; {searched.known} of {searched.runs} candidate "
        f"runs taken from before. Saved: {', '.join(each.name for each in schedules) or 'nothing'}."
    )
    return searched


def named(result: Result, setting: SamplingConfig, order: SearchConfig) -> tuple[Schedule, ...]:
    """The best schedules under the names they are saved by."""
    return tuple(
        as_schedule(each, result, setting, name_for(order.name, each.budget), order.effort, order.seed)
        for each in result.best
    )


def _log_start(memo: RunLog, setting: SamplingConfig, order: SearchConfig) -> None:
    budgets = ", ".join(f"{budget:.2f}" for budget in order.budgets)
    logging.info(
        f"Astraea search: budgets {budgets}, {setting.steps} steps, {setting.cases} clips, up to "
        f"{order.effort:g} dense runs' worth of time; {len(memo)} runs measured before are known."
    )
    if memo.skipped:
        logging.warning(
            f"Astraea search: {memo.skipped} lines of '{memo.path}' cannot be read (a crash may have cut them off) and "
            "are passed over; those runs are made again."
        )


def _keep_so_far(running: Search, setting: SamplingConfig, order: SearchConfig) -> None:
    """Save what an interrupted search has found; what goes wrong here must not hide why it ended."""
    try:
        result = running.result()
        kept = save_so_far(result, setting, order, user_schedule_folder())
    except Exception as error:
        reason = error if isinstance(error, AstraeaError) else repr(error)
        logging.warning(f"Astraea search: the best schedules so far could not be saved: {reason}")
        return
    saved = ", ".join(path.stem for path in kept) or "nothing yet"
    logging.info(
        f"Astraea search: interrupted after {result.spent:.1f} of {order.effort:g} dense runs. Saved: {saved}. Queue "
        "again with the same settings to go on from there."
    )


def save_so_far(result: Result, setting: SamplingConfig, order: SearchConfig, folder: Path) -> list[Path]:
    """Save what an interrupted search has found; returns the files. Raises as `save_all`."""
    return save_all([_beside_finished(each, folder) for each in named(result, setting, order)], folder)


def _beside_finished(schedule: Schedule, folder: Path) -> Schedule:
    """The schedule, under another name where its own is that of a schedule which was not interrupted."""
    path = folder / f"{schedule.name}.json"
    try:
        taken = path.exists() and STOPPED not in str(load(path).provenance.get("found", ""))
    except AstraeaError:
        taken = True
    return schedule.renamed(schedule.name + SO_FAR) if taken else schedule


def save_all(schedules: Sequence[Schedule], folder: Path) -> list[Path]:
    """Save schedules, replacing those of the same names; returns the files.

    One that fails does not keep the others from being saved. Raises SearchError afterwards, with the reason of each.
    """
    failures, files = [], []
    for schedule in schedules:
        try:
            files.append(save(schedule, folder, overwrite=True))
        except AstraeaError as error:
            failures.append(f"'{schedule.name}': {error}")
    if failures:
        raise SearchError(
            f"What was found could not be saved. {' '.join(failures)} Make room or make the folder writable, then "
            "search again: the runs are kept, so that nothing has to be measured twice."
        )
    return files
