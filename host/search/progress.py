"""What a user sees of a search while it runs: the bar, the best candidate's picture, the time left."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

from ...search.result import Progress
from ..latents import preview_rgb

BAR = 1000
PREVIEW_SIDE = 512
DONE = "done"  # the last stage; what it had left to spend takes no time any more
SECONDS_BETWEEN_LINES = 10.0


class SearchView:
    """Called by the search after each run and by the bench at each step; raises when the user has cancelled.

    bench: set once it is made; asked for its steps and for the latents of a new best.
    """

    def __init__(self) -> None:
        self.bench: Any = None
        self._bar = comfy.utils.ProgressBar(BAR)
        self._last = Progress("", 0.0, math.inf, None, ())
        self._run_costs = 1.0  # dense runs, going by the one before
        self._steps_made = 0
        self._written = -math.inf

    def step(self, *_: Any) -> None:
        """A sampling step has been made: the bar moves within a run, which may take minutes."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._steps_made += 1
        if self.bench is not None:
            part = min(1.0, self._steps_made / self.bench.setting.steps) * self._run_costs
            self._move((self._last.spent + part) / self._last.planned)

    def __call__(self, progress: Progress) -> None:
        """A run has been made."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        if progress.spent > self._last.spent:
            self._run_costs = progress.spent - self._last.spent
        self._last, self._steps_made = progress, 0
        preview = None
        if progress.improved and self.bench is not None and self.bench.latest is not None:
            preview = ("JPEG", picture(self.bench.latest), PREVIEW_SIDE)
        self._move(progress.spent / progress.planned, preview)
        text = progress_text(progress)
        if not send_text(text) and time.monotonic() - self._written >= SECONDS_BETWEEN_LINES:
            self._written = time.monotonic()
            logging.info(f"Astraea search: {text.replace(chr(10), '; ')}")

    def _move(self, share: float, preview: tuple | None = None) -> None:
        """Never back, and full only at the end: the host takes a full bar for a node that is done."""
        place = max(self._bar.current, min(round(BAR * share), BAR - 1))
        self._bar.update_absolute(place, BAR, preview)


def picture(latents: Tensor) -> Image.Image:
    """The middle frame of a LATENT's samples `[B, C, (T,) H, W]`, through the host's linear preview."""
    frames = preview_rgb(latents[:1].detach())
    return Image.fromarray((frames[len(frames) // 2].cpu().numpy() * 255).round().astype(np.uint8))


def progress_text(progress: Progress) -> str:
    """How far, how long still, and the best so far by budget."""
    running = progress.seconds_left and progress.stage != DONE
    left = f", about {duration(progress.seconds_left or 0.0)} left" if running else ""
    lines = [f"{progress.stage}: {progress.spent:.1f} of {progress.planned:.0f} dense runs{left}"]
    lines += [f"budget {each.budget:.2f}: {each.psnr:.1f} dB, {each.speedup:.2f}x" for each in progress.best]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def send_text(text: str) -> bool:
    """Show text on the node that runs; says whether there is a browser page to show it."""
    module = sys.modules.get("server")  # not imported: outside of ComfyUI's main.py there is no server to ask
    server, context = getattr(getattr(module, "PromptServer", None), "instance", None), get_executing_context()
    if server is None or context is None or server.client_id is None:
        return False
    server.send_progress_text(text, context.node_id, server.client_id)
    return True
