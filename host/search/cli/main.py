"""A search from the command line: what `python search` does once ComfyUI is there. It prints; `search_bench` samples.

What has been measured and found lies where the node's searches keep theirs, unless other folders are named.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import comfy.utils
import torch
from comfy.cli_args import args as comfy_args

from ....errors import AstraeaError
from ....search.driver import Search
from ....search.evaluation.ray_runner import Cluster, Factory, RayRunner
from ....search.evaluation.run_log import RunLog
from ....search.problem import Bench
from ....search.result import Progress, Result
from ...folders import check_writable, user_schedule_folder, user_search_folder
from ..progress import progress_text
from ..session import SearchConfig, named, save_all, save_so_far
from .inputs import Prompts, apply_paths, check_words, make_runner, prompts_of
from .options import REFUSED, Options, parse

SCRIPT = Path(__file__).parents[3] / "search" / "__main__.py"
INTERRUPTED = 130
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Folders:
    """For schedules, and for memos."""

    schedules: Path
    memos: Path


class Lines:
    """Prints how far a search is, once every few seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN_LINES
            print(progress_text(progress).replace("\n", "; "), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Search, print, save; returns the exit status. ComfyUI has been imported with its own flags."""
    options = parse(arguments)
    try:
        with torch.inference_mode():
            return _searched(options, arguments)
    except KeyboardInterrupt:
        print(f"Stopped. To go on: {restart(arguments)}", flush=True)
        return INTERRUPTED
    except AstraeaError as error:
        return _refused(str(error))
    except Exception as error:  # out of memory, a driver, another pack's wrapper: what is found is saved already
        return _refused(f"stopped by {type(error).__name__}: {next(iter(str(error).splitlines()), '')}")


def _refused(message: str) -> int:
    print(f"Astraea search: {message}", file=sys.stderr, flush=True)
    return REFUSED


def _searched(options: Options, arguments: Sequence[str]) -> int:
    apply_paths()
    check_words(options)
    folders = Folders(options.out or user_schedule_folder(), options.memo or user_search_folder())
    for folder in (folders.schedules, folders.memos):
        check_writable(folder)
    order = SearchConfig(options.name, options.budgets, options.effort, options.seed)
    with _bench(options, arguments) as bench:
        setting = bench.setting
        memo = RunLog(folders.memos / f"{setting.identity}.jsonl", setting.identity)
        print(
            f"{setting.steps} steps, {setting.cases} clips, {len(memo)} runs known from before ({memo.path})",
            flush=True,
        )
        running = Search(
            bench,
            memo,
            budgets=order.budgets,
            effort=order.effort,
            seed=order.seed,
            floor=options.floor,
            small_clips=options.small_clips,
            watch=Lines(),
        )
        try:
            result = running.run()
        except BaseException:
            _keep_so_far(running, order, folders.schedules)
            raise
        finally:
            memo.close()
    schedules = named(result, setting, order)
    files = save_all(schedules, folders.schedules)
    print(f"{running.runs} candidate runs, {running.cache_hits} of them taken from before")
    print(table(result, options.budgets, files), flush=True)
    return 0


@contextlib.contextmanager
def _bench(options: Options, arguments: Sequence[str]) -> Iterator[Bench]:
    """Where candidates run: in this process, or in workers."""
    prompts = prompts_of(options)
    if not options.workers:
        yield make_runner(options, prompts)
        return
    bench = RayRunner(_factory(arguments, prompts), Cluster(options.workers, options.address, not comfy_args.cpu))
    try:
        yield bench
    finally:
        bench.close()


def _factory(arguments: Sequence[str], prompts: Prompts) -> Factory:
    """How a worker comes by the same bench: by the same options and flags."""
    pack = (__package__ or "").removesuffix(".host.search.cli")
    tree = Path(comfy.utils.__file__).parents[1]
    plain = (prompts.positives, prompts.negative)
    return Factory(SCRIPT, "make_runner", (pack, str(tree), sys.argv[1:], list(arguments), plain))


def _keep_so_far(running: Search, order: SearchConfig, folder: Path) -> None:
    """Save what an interrupted search has found; what goes wrong here must not hide why it ended."""
    try:
        kept = save_so_far(running.result(), running.setting, order, folder)
    except Exception as error:
        print(f"Astraea search: what has been found so far could not be saved: {error}", file=sys.stderr)
        return
    print(f"Saved so far: {', '.join(map(str, kept)) or 'nothing yet'}", flush=True)


def table(result: Result, budgets: Sequence[float], files: Sequence[Path]) -> str:
    """Per budget what was found and how it compares with the bundled schedule."""
    rivals = {each.budget: each.psnr for each in result.baselines}
    found = {each.budget: (each, file) for each, file in zip(result.best, files, strict=True)}
    lines = [f"{'budget':>6}  {'PSNR':>8}  {'speed-up':>8}  {'against bundled':>17}  file"]
    for budget in budgets:
        if budget not in found:
            lines.append(f"{budget:>6.2f}  nothing found: raise the effort")
            continue
        best, file = found[budget]
        ahead = f"{best.psnr - rivals[budget]:+.1f} dB" if budget in rivals else "-"
        lines.append(f"{budget:>6.2f}  {best.psnr:>5.1f} dB  {best.speedup:>7.2f}x  {ahead:>17}  {file}")
    return "\n".join(lines)


def restart(arguments: Sequence[str]) -> str:
    """The command that goes on where this one was."""
    words = [sys.executable, str(SCRIPT.parent), *arguments, *(["--", *sys.argv[1:]] if sys.argv[1:] else [])]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
