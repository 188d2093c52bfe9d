"""Plots of a search with a bar per step: the schedules found, and the sensitivity of each step."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from ...engine.report import FULL, REUSE, TOKEN
from ...search.problem.losses import psnr_of
from ...search.problem.result import FoundSchedule, SearchResult
from .drawing import COLOURS, FAINT, GRID, HEIGHT, REUSE_STUB, SCALE, WIDTH, Axis, draw_legend, new_plot, text

LEFT, RIGHT, TOP, BOTTOM = 52, 126, 78, 72
LEGEND = {FULL: "computed in full", TOKEN: "computed in part", REUSE: "estimated from earlier steps"}
ROW_GAP = 0.22  # of a row's height
UNKNOWN = (
    "Unknown for this sampler: it calls the model several times per step, or",
    "how it uses predictions cannot be read, so that the effect of a single",
    "step cannot be computed.",
)


def draw_schedules(result: SearchResult) -> Image.Image:
    """Plot a row per budget: the share of each step that its schedule computes."""
    image, draw = new_plot()
    text(draw, 20 * SCALE, 22 * SCALE, "the schedules found", 17)
    text(draw, 20 * SCALE, 44 * SCALE, "share of each sampling step that is computed; a row per budget", 12, fill=FAINT)
    if not result.best:
        text(draw, LEFT * SCALE, TOP * SCALE, "nothing has been found yet", 12)
        return image
    steps = max(len(found.schedule.points) for found in result.best)
    across = Axis(0, steps, LEFT * SCALE, (WIDTH - RIGHT) * SCALE)
    row = (HEIGHT - TOP - BOTTOM) * SCALE / len(result.best)
    for number, found in enumerate(result.best):
        bottom = TOP * SCALE + row * (number + 1) - row * ROW_GAP / 2
        _row(draw, across, found, bottom, row * (1 - ROW_GAP))
    _steps(draw, across, (HEIGHT - BOTTOM) * SCALE)
    kinds = {kind_of(budget) for found in result.best for budget in found.schedule.budgets}
    draw_legend(draw, LEFT, [(COLOURS[kind], label) for kind, label in LEGEND.items() if kind in kinds])
    return image


def kind_of(budget: float) -> str:
    return FULL if budget >= 1.0 else TOKEN if budget > 0.0 else REUSE


def _row(draw: ImageDraw.ImageDraw, across: Axis, found: FoundSchedule, bottom: float, height: float) -> None:
    draw.line((across.start, bottom, across.end, bottom), GRID, SCALE)
    for step, budget in enumerate(found.schedule.budgets):
        _bar(draw, across, step, bottom - height * max(budget, 4 * REUSE_STUB), bottom, COLOURS[kind_of(budget)])
    middle = bottom - height / 2
    text(draw, across.start - 10 * SCALE, middle, f"{found.budget:.2f}", 13, "rm")
    text(draw, across.end + 10 * SCALE, middle, f"{found.psnr:.1f} dB, {found.speedup:.1f}x", 11)


def draw_sensitivity(result: SearchResult) -> Image.Image:
    """Plot the loss if a single step is skipped: the higher the bar, the more the step matters."""
    image, draw = new_plot()
    text(draw, 20 * SCALE, 22 * SCALE, "which steps matter", 17)
    known = [psnr_of(loss) for loss in result.sensitivity[1:] if 0.0 < loss < math.inf]
    if not known:
        for number, line in enumerate(UNKNOWN):
            text(draw, 20 * SCALE, (50 + 18 * number) * SCALE, line, 12, fill=FAINT)
        return image
    detail = "loss if only this step is estimated: the higher the bar, the more the step matters"
    text(draw, 20 * SCALE, 44 * SCALE, detail, 12, fill=FAINT)
    across = Axis(0, len(result.sensitivity), LEFT * SCALE, (WIDTH - RIGHT) * SCALE)
    # Fewer dB mean more loss: the scale runs downwards.
    most, least = max(known), min(known)
    room = 0.08 * (most - least) or 1.0
    up = Axis(most + room, least - room, (HEIGHT - BOTTOM) * SCALE, TOP * SCALE)
    for value in Axis(up.high, up.low, 0, 1).ticks():
        draw.line((across.start, up.at(value), across.end, up.at(value)), GRID, SCALE)
        text(draw, across.start - 8 * SCALE, up.at(value), f"{value:g}", anchor="rm", fill=FAINT)
    text(draw, 20 * SCALE, up.end - 14 * SCALE, "dB (PSNR) left", fill=FAINT)
    for step, loss in enumerate(result.sensitivity):
        is_computed = step == 0 or not math.isfinite(loss)
        top = up.end if is_computed else min(up.at(min(psnr_of(loss), up.low)), up.start - 2 * SCALE)
        _bar(draw, across, step, top, up.start, COLOURS[FULL if is_computed else TOKEN])
    _steps(draw, across, up.start)
    draw_legend(draw, LEFT, [(COLOURS[FULL], "always computed"), (COLOURS[TOKEN], "if only this one is estimated")])
    return image


def _bar(draw: ImageDraw.ImageDraw, across: Axis, step: int, top: float, bottom: float, fill: tuple) -> None:
    gap = min(2.0 * SCALE, (across.at(1) - across.at(0)) * 0.15)
    draw.rectangle((across.at(step) + gap, min(top, bottom), across.at(step + 1) - gap, bottom), fill)


def _steps(draw: ImageDraw.ImageDraw, across: Axis, bottom: float) -> None:
    steps = int(across.high)
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 500, 1000) if steps / n <= 16)
    for step in range(every - 1, steps, every):
        text(draw, across.at(step + 0.5), bottom + 12 * SCALE, str(step + 1), anchor="mm", fill=FAINT)
    text(draw, (across.start + across.end) / 2, bottom + 28 * SCALE, "sampling step", 11, "mm", FAINT)
