"""Draws a report: a bar per step for the computed share, coloured by kind, and a line for the seconds per call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from ...engine.report import TOKEN, Report
from ...schedules import expected_from
from ..report_text import MEANING, StepRow, step_rows
from .drawing import COLOURS, FAINT, GRID, HEIGHT, LINE, REUSE_STUB, SCALE, WIDTH, draw_legend, new_plot, round_up, text

LEFT, RIGHT, TOP, BOTTOM = 62, 66, 82, 78


@dataclass(frozen=True)
class Frame:
    """Inner rectangle of the plot in pixels, with its two scales."""

    left: float
    top: float
    right: float
    bottom: float
    steps: int
    max_seconds: float

    def x(self, step: float) -> float:
        return self.left + (self.right - self.left) * step / self.steps

    def y_share(self, share: float) -> float:
        return self.bottom - (self.bottom - self.top) * share

    def y_seconds(self, seconds: float) -> float:
        return self.y_share(seconds / self.max_seconds)


def draw_report(report: Report) -> Image.Image:
    """Draw a report as an RGB image."""
    rows = step_rows(report)
    if not rows and report.sparse and report.sparse["error"] is not None:
        return draw_layer_errors(report.sparse)
    image, draw = new_plot()
    frame = Frame(
        left=LEFT * SCALE,
        top=TOP * SCALE,
        right=(WIDTH - RIGHT) * SCALE,
        bottom=(HEIGHT - BOTTOM) * SCALE,
        steps=max(report.steps, len(rows), 1),
        max_seconds=round_up(max((row.seconds for row in rows), default=1.0)),
    )
    _titles(draw, report)
    _axes(draw, frame)
    for row in rows:
        _bar(draw, frame, row)
    _seconds_line(draw, frame, rows)
    _legend(draw, {row.kind for row in rows})
    return image


def _titles(draw: ImageDraw.ImageDraw, report: Report) -> None:
    if not report.calls:
        title = "all attention was dense" if report.sparse else "no model call was made yet"
        text(draw, LEFT * SCALE, 22 * SCALE, title, 17)
        return
    gained = f"{report.speedup:.2f}x faster" if report.speedup is not None else "no full step to compare with"
    text(draw, LEFT * SCALE, 22 * SCALE, f"{report.schedule}: {gained}, {report.computed_share:.0%} of tokens", 17)
    detail = f"mode {report.mode or '-'}, {report.steps} steps, {report.model_seconds:.2f} s in the model"
    if report.cache_bytes:
        detail += f", cache {report.cache_bytes / 2**20:.1f} MiB ({report.cache_policy})"
    expected = expected_from(report.expected)
    if expected is not None:
        detail += f", promised {expected.figures()}"
    text(draw, LEFT * SCALE, 46 * SCALE, detail, 12, fill=FAINT)


def _axes(draw: ImageDraw.ImageDraw, frame: Frame) -> None:
    for tick in range(5):
        share = tick / 4
        y = frame.y_share(share)
        draw.line((frame.left, y, frame.right, y), GRID, SCALE)
        text(draw, frame.left - 8 * SCALE, y, f"{share:.0%}", anchor="rm", fill=FAINT)
        text(draw, frame.right + 8 * SCALE, y, _format_seconds(frame.max_seconds * share), fill=LINE)
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 500, 1000) if frame.steps / n <= 16)
    for step in range(every - 1, frame.steps, every):
        text(draw, frame.x(step + 0.5), frame.bottom + 12 * SCALE, str(step + 1), anchor="mm", fill=FAINT)
    text(draw, (frame.left + frame.right) / 2, frame.bottom + 30 * SCALE, "sampling step", 12, "mm")
    text(draw, frame.left - 48 * SCALE, frame.top - 15 * SCALE, "tokens computed", 11)
    text(draw, frame.right + 54 * SCALE, frame.top - 15 * SCALE, "seconds per call", 11, "rm", LINE)


def _bar(draw: ImageDraw.ImageDraw, frame: Frame, row: StepRow) -> None:
    gap = min(2.0 * SCALE, (frame.x(1) - frame.x(0)) * 0.15)
    top = frame.y_share(max(row.share, REUSE_STUB))
    draw.rectangle((frame.x(row.step) + gap, top, frame.x(row.step + 1) - gap, frame.bottom), COLOURS[row.kind])


def _seconds_line(draw: ImageDraw.ImageDraw, frame: Frame, rows: list[StepRow]) -> None:
    points = [(frame.x(row.step + 0.5), frame.y_seconds(row.seconds)) for row in rows]
    if len(points) > 1:
        draw.line(points, LINE, 2 * SCALE, joint="curve")
    radius = 2.5 * SCALE
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), LINE)


def _legend(draw: ImageDraw.ImageDraw, kinds: set[str]) -> None:
    x = draw_legend(draw, LEFT, [(COLOURS[kind], f"{kind}: {MEANING[kind]}") for kind in COLOURS if kind in kinds])
    if kinds:
        y, length = (HEIGHT - 22) * SCALE, 16 * SCALE
        draw.line((x, y, x + length, y), LINE, 2 * SCALE)
        text(draw, x + length + 6 * SCALE, y, "seconds per call", 10.5)


def _format_seconds(value: float) -> str:
    return "0" if value == 0.0 else f"{value:.3g}"


def draw_layer_errors(sparse: dict[str, Any]) -> Image.Image:
    """Draw what sparse attention did as an RGB image: a bar per layer for the error of its output.

    sparse: of a report, see `engine.sparse.figures`.
    """
    image, draw = new_plot()
    errors: list[float] = sparse["layer_errors"]
    worst = round_up(max(errors))
    frame = Frame(
        left=LEFT * SCALE,
        top=TOP * SCALE,
        right=(WIDTH - RIGHT) * SCALE,
        bottom=(HEIGHT - BOTTOM) * SCALE,
        steps=len(errors),
        max_seconds=worst,
    )
    gained = sparse["attention_speedup"]
    title = f"sparse attention, density {sparse['computed_share']:.2f}"
    text(draw, LEFT * SCALE, 22 * SCALE, title + (f", {gained:.2f}x as fast" if gained else ""), 17)
    detail = f"{sparse['sparse_steps']} of {sparse['steps']} steps, output off by {sparse['error']:.0%} on sampled rows"
    text(draw, LEFT * SCALE, 46 * SCALE, detail, 12, fill=FAINT)
    for tick in range(5):
        y = frame.y_share(tick / 4)
        draw.line((frame.left, y, frame.right, y), GRID, SCALE)
        text(draw, frame.left - 8 * SCALE, y, f"{worst * tick / 4:.1%}", anchor="rm", fill=FAINT)
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100) if len(errors) / n <= 16)
    for layer, error in enumerate(errors):
        gap = min(2.0 * SCALE, (frame.x(1) - frame.x(0)) * 0.15)
        top = frame.y_share(max(error / worst, REUSE_STUB))
        draw.rectangle((frame.x(layer) + gap, top, frame.x(layer + 1) - gap, frame.bottom), COLOURS[TOKEN])
        if layer % every == every - 1:
            text(draw, frame.x(layer + 0.5), frame.bottom + 12 * SCALE, str(layer + 1), anchor="mm", fill=FAINT)
    text(draw, (frame.left + frame.right) / 2, frame.bottom + 30 * SCALE, "layer", 12, "mm")
    text(draw, frame.left - 48 * SCALE, frame.top - 15 * SCALE, "error of the attention output", 11)
    return image
