"""The node's view of a running search: progress bar, preview of the best candidate, and a text on the node."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

from ...errors import AstraeaError
from ...search.evaluation.run_log import RunLog
from ...search.problem.config import SearchConfig
from ...search.problem.result import Progress, SearchResult
from ..latents import preview_rgb
from .view import SearchRun

BAR = 1000
PREVIEW_SIDE = 512
DONE = "done"  # the last stage; effort that is left then takes no time
SECONDS_BETWEEN_LINES = 60.0  # in the log, where no browser shows the progress
MAX_KNOWN = 0.95  # of the bar, for what earlier searches have run


class NodeView:
    """Implements `view.View` for the node; raises when the user has cancelled.

    runner: known once the search begins; asked for its steps and for the latents of a new best.
    known: clips' worth of work that earlier searches on this model and sampling have logged. The bar begins there: the
    search takes these outcomes from the log once its dense runs are made.
    """

    def __init__(self) -> None:
        self._runner: Any = None
        self._bar = comfy.utils.ProgressBar(BAR)
        self._last = Progress("", 0.0, math.inf, None, ())
        self._known = 0.0
        self._run_cost = 1.0  # of the last run, in dense runs
        self._steps_made = 0
        self._line_time = -math.inf

    def begin(self, runner: Any, run_log: RunLog, config: SearchConfig) -> None:
        self._runner = runner
        budgets = ", ".join(f"{budget:.2f}" for budget in config.budgets)
        logging.info(
            f"Astraea search: budgets {budgets}, {runner.setting.steps} steps, compared on {runner.setting.cases} "
            f"clips; as much work as {config.effort:g} clips without acceleration. {len(run_log)} runs are known from "
            "earlier searches."
        )
        self._known = min(run_log.steps_computed() / sum(runner.setting.calls_per_step), MAX_KNOWN * config.effort)
        if self._known:
            self._move(self._known / config.effort)
            send_text(f"goes on: {self._known:.0f} of {config.effort:.0f} clips are known from before")

    def on_step(self, *_: Any) -> None:
        """Move the bar after a sampling step, as a run may take minutes."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._steps_made += 1
        if self._runner is not None:
            part = min(1.0, self._steps_made / self._runner.setting.steps) * self._run_cost
            self._move((max(self._last.cost, self._known) + part) / self._last.effort)

    def update(self, progress: Progress) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if progress.cost > self._last.cost:
            self._run_cost = progress.cost - self._last.cost
        self._last, self._steps_made = progress, 0
        preview = None
        if progress.improved and self._runner is not None and self._runner.latest is not None:
            preview = ("JPEG", draw_preview(self._runner.latest), PREVIEW_SIDE)
        self._move(max(progress.cost, self._known) / progress.effort, preview)
        text = progress_text(progress, self._known)
        if not send_text(text) and time.monotonic() - self._line_time >= SECONDS_BETWEEN_LINES:
            self._line_time = time.monotonic()
            logging.info(f"Astraea search: {text.replace(chr(10), '; ')}")

    def interrupted(self, result: SearchResult, saved: Sequence[Path], config: SearchConfig) -> None:
        names = ", ".join(f"'{path.stem}'" for path in saved)
        text = (
            f"stopped after {result.cost:.0f} of {config.effort:.0f} clips\n"
            f"{f'saved so far: {names}' if saved else 'nothing was found yet; runs that ended are kept'}\n"
            "Run goes on from here, with the same settings"
        )
        send_text(text)
        logging.info(f"Astraea search: {text.replace(chr(10), '; ')}.")

    def not_saved(self, error: Exception) -> None:
        reason = error if isinstance(error, AstraeaError) else repr(error)
        send_text(f"stopped; the best schedules so far could not be saved: {reason}")
        logging.warning(f"Astraea search: the best schedules so far could not be saved: {reason}")

    def finished(self, run: SearchRun) -> None:
        lines = [
            f"saved '{schedule.name}': {found.psnr:.1f} dB at {found.speedup:.1f}×"
            for found, schedule in zip(run.result.best, run.schedules, strict=True)
        ]
        send_text("\n".join([*lines, "press R, then choose it by name in Astraea Accelerate"]))
        logging.info(
            f"Astraea search: finished after the work of {run.result.cost:.0f} clips; {run.cache_hits} of {run.runs} "
            f"candidate runs were known from before; {'; '.join(lines) or 'nothing was found'}."
        )

    def _move(self, share: float, preview: tuple | None = None) -> None:
        """Set the bar: never backwards, and full only at the end, as ComfyUI takes a full bar for a finished node."""
        value = max(self._bar.current, min(round(BAR * share), BAR - 1))
        self._bar.update_absolute(value, BAR, preview)


def draw_preview(latents: Tensor) -> Image.Image:
    """Return the middle frame of a LATENT's samples `[B, C, (T,) H, W]`, by ComfyUI's linear preview."""
    frames = preview_rgb(latents[:1].detach())
    return Image.fromarray((frames[len(frames) // 2].cpu().numpy() * 255).round().astype(np.uint8))


def progress_text(progress: Progress, known: float = 0.0) -> str:
    """Return lines with the effort spent, the remaining time and the best so far per budget.

    known: clips' worth of work that the search will take from the log.
    """
    done, planned = max(progress.cost, known), progress.effort
    running = progress.seconds_left and progress.stage != DONE
    # What is known already takes no time.
    seconds = (progress.seconds_left or 0.0) * max(0.0, planned - done) / max(planned - progress.cost, 1e-9)
    left = f", {format_duration(seconds)} left" if running else ""
    lines = [f"{done:.0f} of {progress.effort:.0f} clips{left} ({progress.stage})"]
    lines += [f"best {each.budget:.2f}: {each.psnr:.1f} dB at {each.speedup:.1f}×" for each in progress.best]
    return "\n".join(lines)


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def send_text(text: str) -> bool:
    """Show text on the running node; returns False if there is no browser page to show it."""
    module = sys.modules.get("server")  # not imported: without ComfyUI's main.py there is no server to ask
    server, context = getattr(getattr(module, "PromptServer", None), "instance", None), get_executing_context()
    if server is None or context is None or server.client_id is None:
        return False
    server.send_progress_text(text, context.node_id, server.client_id)
    return True
