"""Draws a report: the gain in large figures, the time against the original's, a cell per step, remarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from ...engine.report import ANSWERED, FULL, REUSE, TOKEN, Report
from ...schedules import expected_from
from ..report_text import UNEVEN, StepRow, clock, step_rows, was_disturbed
from .drawing import (
    ACCENT,
    AMBER,
    COLOURS,
    FAINT,
    GRID,
    INK,
    PAPER,
    REUSE_STUB,
    SCALE,
    WIDTH,
    font,
    new_plot,
    round_up,
    text,
    wrap,
)

MARGIN = 20
BAR_LEFT = 92
CELL_HEIGHT, MAX_CELL = 30, 34
MAX_LINES = 12  # of remarks; the text of the node has all of them
MEANING = {FULL: "computed", TOKEN: "computed in part", REUSE: "forecast", ANSWERED: "answered by another node"}


@dataclass
class Page:
    """A picture that is filled from above; `y` is where the next part begins, nominal."""

    draw: ImageDraw.ImageDraw
    y: float = MARGIN

    def write(self, words: str, size: float, fill: tuple = INK, x: float = MARGIN, anchor: str = "lm") -> None:
        """Write a line whose middle is half its height below `y`, without moving on."""
        text(self.draw, x * SCALE, (self.y + size / 2) * SCALE, words, size, anchor, fill)

    def box(self, x: float, width: float, height: float, fill: tuple, y: float | None = None) -> None:
        top = self.y if y is None else y
        corners = (x * SCALE, top * SCALE, (x + width) * SCALE, (top + height) * SCALE)
        self.draw.rounded_rectangle(corners, 3 * SCALE, fill)


def draw_report(report: Report) -> Image.Image:
    """Draw a report as an RGB image, as high as its content."""
    if not report.calls and report.sparse and report.sparse["error"] is not None:
        return draw_layer_errors(report.sparse, report.notes)
    image, draw = new_plot(2000)
    page = Page(draw)
    _headline(page, report)
    if report.calls:
        _times(page, report)
        _strip(page, step_rows(report), report.steps)
        _promise(page, report)
    _details(page, report)
    _remarks(page, report.notes)
    return image.crop((0, 0, WIDTH * SCALE, round((page.y + MARGIN / 2) * SCALE)))


def _headline(page: Page, report: Report) -> None:
    """Write the gain large, and what it saved beside it."""
    spent, original = report.usual_seconds, report.original_seconds
    if not report.calls:
        title = "passed through" if report.notes else "nothing ran yet"
        if report.sparse:
            title = "sparse attention" if report.sparse["calls"] else "attention stayed dense"
        page.write(title, 26)
        page.y += 40
        return
    if original is None or original <= spent or spent <= 0 or not report.finished:
        title, about = "no faster" if report.finished else "stopped early", ""
        if was_disturbed(report):
            title, about = "time not comparable", f": {UNEVEN}"
        elif original is not None and report.finished:
            about = f", about {clock(original)} in full"
        page.write(title, 34)
        page.y += 42
        words = f"{report.steps_computed} of {report.steps} steps computed, {clock(spent)}{about}"
        page.write(words, 14, FAINT)
        page.y += 28
        return
    gain = f"{original / spent:.1f}x"
    page.write(gain, 58, ACCENT)
    right = MARGIN + font(58).getlength(gain) / SCALE + 18
    saved = original - spent
    page.y += 5
    page.write(f"{clock(saved)} saved" if saved > 0.05 else "faster", 22, x=right)
    page.y += 29
    page.write(f"{clock(spent)} instead of about {clock(original)}", 14, FAINT, x=right)
    page.y += 40


def _times(page: Page, report: Report) -> None:
    """Draw the seconds of the original, as estimated from the run's own full steps, and those of this run."""
    original = report.original_seconds
    if original is None or not report.finished or was_disturbed(report):
        return
    longest, width = max(original, report.usual_seconds), WIDTH - MARGIN - BAR_LEFT
    for label, seconds, colour in (("original", original, GRID), ("this run", report.usual_seconds, ACCENT)):
        length = max(4.0, width * seconds / longest)
        page.box(BAR_LEFT, length, 18, colour)
        page.y += 2.5
        page.write(label, 13, FAINT)
        about = "about " if label == "original" else ""
        words = f"{about}{clock(seconds)}"
        inside = length > font(13).getlength(words) / SCALE + 16
        ink = (PAPER if colour == ACCENT else INK) if inside else INK
        page.write(words, 13, ink, x=BAR_LEFT + (8 if inside else length + 8))
        page.y += 20.5
    page.y += 12


def _strip(page: Page, rows: list[StepRow], steps: int) -> None:
    """Draw a cell per step, filled as high as the share that was computed."""
    count = max(steps, len(rows), 1)
    width = min(MAX_CELL, (WIDTH - 2 * MARGIN) / count)
    gap = min(3.0, width * 0.18)
    for row in rows:
        x = MARGIN + row.step * width
        page.box(x, width - gap, CELL_HEIGHT, COLOURS[REUSE])
        share = row.share if row.kind == TOKEN else 1.0
        if row.kind != REUSE:
            height = CELL_HEIGHT * max(share, 0.12)
            page.box(x, width - gap, height, COLOURS[row.kind], page.y + CELL_HEIGHT - height)
    page.y += CELL_HEIGHT + 5
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 500, 1000, 10000) if count / n <= 12)
    for number in sorted({1, *range(every, count + 1, every)}):
        page.write(str(number), 11, FAINT, x=MARGIN + (number - 0.5) * width - gap / 2, anchor="mm")
    page.y += 19
    x = float(MARGIN)
    for kind in [kind for kind in COLOURS if kind in {row.kind for row in rows}]:
        number = sum(row.kind == kind for row in rows)
        label = f"{number} {MEANING[kind]}"
        wide = 35 + font(13).getlength(label) / SCALE
        if x > MARGIN and x + wide > WIDTH:
            x, page.y = float(MARGIN), page.y + 20
        page.box(x, 11, 11, COLOURS[kind], page.y + 1)
        page.write(label, 13, FAINT, x=x + 17)
        x += wide
    page.y += 27


def _promise(page: Page, report: Report) -> None:
    """Write what the schedule promised and what was measured, in one row."""
    expected = expected_from(report.expected)
    if expected is None or report.speedup is None:
        return
    page.write(f"promised {expected.speedup:.1f}x at {expected.psnr_db:.0f} dB", 14, FAINT)
    page.write(f"measured {report.speedup:.1f}x", 14, x=WIDTH / 2)
    page.y += 26


def _details(page: Page, report: Report) -> None:
    """Write the schedule, the memory kept and what sparse attention did, small."""
    lines = []
    if report.calls:
        kept = f"{report.cache_bytes / 2**20:,.1f} MiB kept" if report.cache_bytes else "nothing kept"
        lines.append(f"{report.schedule or 'no schedule'} · {report.computed_share:.0%} of the work · {kept}")
    if report.sparse:
        lines.append(str(report.sparse["line"]))
    for line in lines:
        for part in wrap(line, 12, WIDTH - 2 * MARGIN):
            page.write(part, 12, FAINT)
            page.y += 17
    page.y += 4


def _remarks(page: Page, notes: list[str]) -> None:
    """Write the remarks of the run in amber."""
    notes = [note.removeprefix("passed through: ") for note in notes]
    lines = [part for note in notes for part in wrap(note, 13, WIDTH - 2 * MARGIN - 14)]
    for line in [*lines[:MAX_LINES], *(["…"] if len(lines) > MAX_LINES else [])]:
        page.box(MARGIN, 3, 19, AMBER)
        page.y += 3
        page.write(line, 13, AMBER, x=MARGIN + 14)
        page.y += 16


def draw_layer_errors(sparse: dict[str, Any], notes: list[str]) -> Image.Image:
    """Draw what sparse attention did as an RGB image: a bar per layer for the error of its output.

    sparse: of a report, see `engine.sparse.figures`.
    """
    image, draw = new_plot(2000)
    page = Page(draw)
    gained = sparse["attention_speedup"]
    page.write(f"density {sparse['computed_share']:.2f}" + (f", {gained:.1f}x as fast" if gained else ""), 30, ACCENT)
    page.y += 40
    detail = f"{sparse['sparse_steps']} of {sparse['steps']} steps; output off by {sparse['error']:.0%} on sampled rows"
    page.write(detail, 14, FAINT)
    page.y += 34
    errors: list[float] = sparse["layer_errors"]
    worst, height = round_up(max(errors)), 110
    width = min(MAX_CELL, (WIDTH - 2 * MARGIN - 40) / len(errors))
    for tick in range(3):
        y = (page.y + height * (1 - tick / 2)) * SCALE
        draw.line(((MARGIN + 40) * SCALE, y, (WIDTH - MARGIN) * SCALE, y), GRID, SCALE)
        text(draw, (MARGIN + 34) * SCALE, y, f"{worst * tick / 2:.0%}", 11, "rm", FAINT)
    for layer, error in enumerate(errors):
        bar = height * max(error / worst, REUSE_STUB)
        page.box(MARGIN + 40 + layer * width, max(1.0, width * 0.8), bar, COLOURS[TOKEN], page.y + height - bar)
    page.y += height + 6
    page.write("error of the attention output, a bar per layer", 12, FAINT, x=MARGIN + 40)
    page.y += 24
    _remarks(page, notes)
    return image.crop((0, 0, WIDTH * SCALE, round((page.y + MARGIN / 2) * SCALE)))
