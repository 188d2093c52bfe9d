"""The command `python search`, once ComfyUI is loaded: searches as the node does, and prints.

Run logs and schedules are those of the node's searches unless other folders are given.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import comfy.utils
import torch
from comfy.cli_args import args as comfy_args

from ....errors import AstraeaError
from ....search.evaluation.ray_runner import Cluster, Factory, RayRunner
from ....search.evaluation.run_log import RunLog
from ....search.problem.config import SearchConfig
from ....search.problem.result import Progress, SearchResult
from ....search.problem.runner import Runner
from ..progress import progress_text
from ..session import Folders, run_search, user_folders
from ..view import SearchRun
from .inputs import Prompts, apply_paths, check_names, encode_prompts, make_runner
from .options import REFUSED, CliOptions, parse

SCRIPT = Path(__file__).parents[3] / "search" / "__main__.py"
INTERRUPTED = 130
SECONDS_BETWEEN_LINES = 5.0


class ConsoleView:
    """Implements `view.View` by printed lines."""

    def __init__(self, budgets: Sequence[float]) -> None:
        self._budgets = tuple(budgets)
        self._next_line = 0.0

    def begin(self, runner: Runner, run_log: RunLog, config: SearchConfig) -> None:
        setting = runner.setting
        sampling = f"{setting.steps} steps, {setting.cases} clips"
        print(f"{sampling}, {len(run_log)} runs known from before ({run_log.path})", flush=True)

    def update(self, progress: Progress) -> None:
        """Print the progress every few seconds."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            print(progress_text(progress).replace("\n", "; "), flush=True)

    def interrupted(self, result: SearchResult, saved: Sequence[Path], config: SearchConfig) -> None:
        print(f"Saved so far: {', '.join(map(str, saved)) or 'nothing yet'}", flush=True)

    def not_saved(self, error: Exception) -> None:
        print(f"Astraea search: the best schedules so far could not be saved: {error}", file=sys.stderr)

    def finished(self, run: SearchRun) -> None:
        print(f"{run.runs} candidate runs, {run.cache_hits} of them taken from before")
        print(format_table(run, self._budgets), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Search, print, save; returns the exit status. ComfyUI has been imported with its own flags."""
    options = parse(arguments)
    try:
        with torch.inference_mode():
            _search(options, arguments)
    except KeyboardInterrupt:
        print(f"Stopped. To go on: {resume_command(arguments)}", flush=True)
        return INTERRUPTED
    except AstraeaError as error:
        return _refuse(str(error))
    except Exception as error:  # out of memory, a driver, another pack's wrapper: what was found is saved already
        return _refuse(f"stopped by {type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
    return 0


def _refuse(message: str) -> int:
    print(f"Astraea search: {message}", file=sys.stderr, flush=True)
    return REFUSED


def _search(options: CliOptions, arguments: Sequence[str]) -> None:
    apply_paths()
    check_names(options)
    usual = user_folders()
    folders = Folders(options.out or usual.schedules, options.run_log or usual.run_logs)

    def open_runner() -> contextlib.AbstractContextManager[Runner]:
        return _open_runner(options, arguments)

    run_search(open_runner, options.config, options.name, folders, ConsoleView(options.budgets))


@contextlib.contextmanager
def _open_runner(options: CliOptions, arguments: Sequence[str]) -> Iterator[Runner]:
    """Run candidates in this process, or in workers that are ended afterwards."""
    prompts = encode_prompts(options)
    if not options.workers:
        yield make_runner(options, prompts)
        return
    runner = RayRunner(_factory(arguments, prompts), Cluster(options.workers, options.address, not comfy_args.cpu))
    try:
        yield runner
    finally:
        runner.close()


def _factory(arguments: Sequence[str], prompts: Prompts) -> Factory:
    """Return the factory by which a worker makes the same runner: of the same options and flags."""
    pack = (__package__ or "").removesuffix(".host.search.cli")
    tree = Path(comfy.utils.__file__).parents[1]
    plain = (prompts.positives, prompts.negative)
    return Factory(SCRIPT, "make_runner", (pack, str(tree), sys.argv[1:], list(arguments), plain))


def format_table(run: SearchRun, budgets: Sequence[float]) -> str:
    """Return a line per budget: the schedule found, and its gain over what `auto` does."""
    found = {each.budget: (each, schedule) for each, schedule in zip(run.result.best, run.schedules, strict=True)}
    lines = [f"{'budget':>6}  {'PSNR':>8}  {'speed-up':>8}  {'against auto':>17}  file"]
    for budget in budgets:
        if budget not in found:
            lines.append(f"{budget:>6.2f}  nothing found: raise the effort")
            continue
        best, schedule = found[budget]
        baseline = run.result.baseline_for(budget)
        gain = "-" if baseline is None else f"{best.psnr - baseline.psnr:+.1f} dB"
        file = run.folder / f"{schedule.name}.json"
        lines.append(f"{budget:>6.2f}  {best.psnr:>5.1f} dB  {best.speedup:>7.2f}x  {gain:>17}  {file}")
    return "\n".join(lines)


def resume_command(arguments: Sequence[str]) -> str:
    """Return the command that resumes this search."""
    words = [sys.executable, str(SCRIPT.parent), *arguments, *(["--", *sys.argv[1:]] if sys.argv[1:] else [])]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
