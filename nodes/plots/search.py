"""Plots of a search: quality against speed, its progress, the schedules found, and which steps matter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from ...search.problem.losses import psnr_of
from ...search.problem.result import HistoryPoint, SearchResult
from .drawing import ACCENT, FAINT, GRID, HEIGHT, INK, PAPER, SCALE, SERIES, WIDTH, Axis, font, new_plot, spread, text
from .search_steps import draw_schedules, draw_sensitivity

LEFT, RIGHT, TOP, BOTTOM = 52, 146, 78, 72
CLOUD, BASELINE = (84, 88, 98), (236, 238, 242)
SHOWN_BELOW = 8.0  # dB below the worst named schedule; candidates further below are left out
LABEL_GAP = 15 * SCALE


def draw_search(result: SearchResult) -> tuple[Image.Image, ...]:
    """Return the four plots, all of one size."""
    return draw_front(result), draw_convergence(result), draw_schedules(result), draw_sensitivity(result)


def draw_front(result: SearchResult) -> Image.Image:
    """Plot closeness to the original against predicted speed: candidates, baselines, Pareto front, schedules found."""
    image, draw = new_plot()
    named = [*result.front, *result.baselines, *result.best]
    if not named:
        return _empty(image, draw, "nothing has been found yet")
    cloud = [
        (result.dense_seconds / seconds, psnr_of(loss))
        for seconds, loss in result.tried
        if seconds > 0.0 and 0.0 < loss < math.inf
    ]
    lowest = min(found.psnr for found in named) - SHOWN_BELOW
    cloud = [(speed, decibels) for speed, decibels in cloud if decibels >= lowest]
    points = [*cloud, *((found.speedup, found.psnr) for found in named)]
    across = _axis([speed for speed, _ in points], LEFT * SCALE, (WIDTH - RIGHT) * SCALE)
    up = _axis([decibels for _, decibels in points], (HEIGHT - BOTTOM) * SCALE, TOP * SCALE)
    _title(draw, "closeness to the original against speed", "up and to the right is better; means over all clips")
    _grid(draw, across, up, "predicted speed-up", "dB (PSNR)", "x")
    for speed, decibels in cloud:
        _dot(draw, across.at(speed), up.at(decibels), 1.6, CLOUD)
    line = sorted((across.at(found.speedup), up.at(found.psnr)) for found in result.front)
    if len(line) > 1:
        draw.line(line, INK, SCALE)
    for found in result.baselines:
        _cross(draw, across.at(found.speedup), up.at(found.psnr))
    places = [(across.at(found.speedup), up.at(found.psnr)) for found in result.best]
    for number, (x, y) in enumerate(places):
        _dot(draw, x, y, 4.5, _colour(number))
    _labels(draw, places, [f"{found.budget:.2f}: {found.psnr:.1f} dB, {found.speedup:.2f}x" for found in result.best])
    _front_legend(draw)
    return image


def draw_convergence(result: SearchResult) -> Image.Image:
    """Plot the best closeness so far by budget against the effort spent."""
    image, draw = new_plot()
    lines = _histories(result)
    if not lines:
        return _empty(image, draw, "nothing has been measured yet")
    values = [psnr_of(point.loss) for points in lines.values() for point in points]
    across = Axis(0.0, max(result.cost, 1.0), LEFT * SCALE, (WIDTH - RIGHT) * SCALE)
    up = _axis(values, (HEIGHT - BOTTOM) * SCALE, TOP * SCALE)
    ended = "" if result.finished else ", then stopped"
    _title(draw, "how the search went", f"best so far by budget; the work of {result.cost:.1f} clips{ended}")
    _grid(draw, across, up, "work, in clips without acceleration", "dB (PSNR)")
    ends = []
    for number, points in enumerate(lines.values()):
        path: list[tuple[float, float]] = []
        for point in points:
            x, y = across.at(point.cost), up.at(psnr_of(point.loss))
            path += [(x, path[-1][1]), (x, y)] if path else [(x, y)]
        path.append((across.end, path[-1][1]))
        draw.line(path, _colour(number), 2 * SCALE, joint="curve")
        _dot(draw, *path[0], 2.5, _colour(number))
        ends.append(path[-1])
    labels = [f"{budget:.2f}: {psnr_of(points[-1].loss):.1f} dB" for budget, points in lines.items()]
    _labels(draw, ends, labels)
    return image


def _histories(result: SearchResult) -> dict[float, list[HistoryPoint]]:
    """Return points with a finite loss by budget, in the order of the budgets found."""
    lines: dict[float, list[HistoryPoint]] = {found.budget: [] for found in result.best}
    for point in sorted(result.history, key=lambda each: each.cost):
        if 0.0 < point.loss < math.inf:
            lines.setdefault(point.budget, []).append(point)
    return {budget: points for budget, points in lines.items() if points}


def _colour(number: int) -> tuple[int, int, int]:
    return SERIES[number % len(SERIES)]


def _pale(colour: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple((part + 2 * paper) // 3 for part, paper in zip(colour, PAPER, strict=True))


def _axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Return a scale that holds all values, with a margin."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(0.05 * abs(high), 0.05)
    return Axis(low - room, high + room, start, end)


def _empty(image: Image.Image, draw: ImageDraw.ImageDraw, words: str) -> Image.Image:
    text(draw, 20 * SCALE, 22 * SCALE, words, 17)
    return image


def _title(draw: ImageDraw.ImageDraw, title: str, detail: str) -> None:
    text(draw, 20 * SCALE, 22 * SCALE, title, 17)
    text(draw, 20 * SCALE, 44 * SCALE, detail, 12, fill=FAINT)


def _grid(draw: ImageDraw.ImageDraw, across: Axis, up: Axis, below: str, beside: str, unit: str = "") -> None:
    for value in up.ticks():
        draw.line((across.start, up.at(value), across.end, up.at(value)), GRID, SCALE)
        text(draw, across.start - 8 * SCALE, up.at(value), f"{value:g}", anchor="rm", fill=FAINT)
    for value in across.ticks(8):
        draw.line((across.at(value), up.start, across.at(value), up.end), GRID, SCALE)
        text(draw, across.at(value), up.start + 12 * SCALE, f"{value:g}{unit}", anchor="mm", fill=FAINT)
    text(draw, (across.start + across.end) / 2, up.start + 28 * SCALE, below, 11, "mm", FAINT)
    text(draw, 20 * SCALE, up.end - 14 * SCALE, beside, 11, fill=FAINT)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: tuple) -> None:
    size = radius * SCALE
    draw.ellipse((x - size, y - size, x + size, y + size), fill)


def _cross(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    size = 4 * SCALE
    draw.line((x - size, y - size, x + size, y + size), BASELINE, 2 * SCALE)
    draw.line((x - size, y + size, x + size, y - size), BASELINE, 2 * SCALE)


def _labels(draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float]], labels: Sequence[str]) -> None:
    """Write labels in the right margin, each near the height of its place and joined to it by a thin line."""
    left = (WIDTH - RIGHT + 12) * SCALE
    heights = spread([y for _, y in places], LABEL_GAP, TOP * SCALE, (HEIGHT - BOTTOM) * SCALE)
    for number, ((x, y), height, label) in enumerate(zip(places, heights, labels, strict=True)):
        draw.line((x, y, left - 8 * SCALE, height, left - 3 * SCALE, height), _pale(_colour(number)), SCALE // 2)
        text(draw, left, height, label, 11, fill=_colour(number))


def _front_legend(draw: ImageDraw.ImageDraw) -> None:
    x, y = float(LEFT * SCALE), (HEIGHT - 22) * SCALE
    for kind, label in (
        ("cloud", "candidate"),
        ("baseline", "auto"),
        ("front", "none is both faster and closer"),
        ("found", "found, by budget"),
    ):
        middle = x + 6 * SCALE
        if kind == "baseline":
            _cross(draw, middle, y)
        elif kind == "front":
            draw.line((x, y, x + 12 * SCALE, y), INK, SCALE)
        else:
            _dot(draw, middle, y, *((2.5, CLOUD) if kind == "cloud" else (4.5, ACCENT)))
        text(draw, x + 18 * SCALE, y, label, 11)
        x += 32 * SCALE + draw.textlength(label, font(11))
