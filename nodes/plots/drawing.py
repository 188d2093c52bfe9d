"""Parts of all plots: size, colours, text and round numbers. Pillow only.

Plots are drawn at twice the nominal size, to stay sharp in a zoomed graph, and are legible on a node that is about as
wide as they are. They are dark, as the graph is. Lengths named here are nominal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from ...engine.report import ANSWERED, FULL, REUSE, TOKEN

SCALE = 2
WIDTH, HEIGHT = 520, 330
PAPER, INK, FAINT, GRID = (24, 26, 31), (236, 238, 242), (152, 158, 168), (50, 54, 62)
ACCENT, AMBER = (84, 196, 214), (240, 186, 92)
COLOURS = {FULL: ACCENT, TOKEN: (58, 122, 150), REUSE: (56, 60, 70), ANSWERED: (122, 108, 150)}
SERIES = (
    (84, 196, 214),
    (240, 186, 92),
    (134, 204, 120),
    (236, 120, 130),
    (178, 150, 236),
    (228, 160, 210),
    (150, 190, 250),
    (190, 194, 200),
)
REUSE_STUB = 0.012  # height of the bar of a skipped step, which computes nothing


@dataclass(frozen=True)
class Axis:
    """A linear scale: values low...high at pixels start...end."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[float]:
        """Return at most `most` + 1 round values on the scale."""
        step = next(size for size in _round_steps((self.high - self.low) / most) if size * most >= self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round_steps(least: float) -> list[float]:
    power = 10.0 ** math.floor(math.log10(least))
    return [power * size for size in (1, 2, 2.5, 5, 10, 20)]


def spread(positions: Sequence[float], gap: float, least: float, most: float) -> list[float]:
    """Return positions moved as little as possible, to be `gap` apart and within two bounds; in the given order."""
    order = sorted(range(len(positions)), key=lambda number: positions[number])
    moved = [min(max(position, least), most) for position in positions]
    for before, number in pairwise(order):
        moved[number] = max(moved[number], moved[before] + gap)
    if order:
        moved[order[-1]] = min(moved[order[-1]], most)
    for number, after in zip(order[-2::-1], order[:0:-1], strict=True):
        moved[number] = min(moved[number], moved[after] - gap)
    return moved


def new_plot(height: int = HEIGHT) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return an empty image and its drawing context."""
    image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    return image, ImageDraw.Draw(image)


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font at a nominal size."""
    try:
        return ImageFont.load_default(size * SCALE)
    except TypeError:  # an old Pillow has its default font in one size only
        return ImageFont.load_default()


def text(
    draw: ImageDraw.ImageDraw, x: float, y: float, words: str, size: float = 11, anchor: str = "lm", fill: tuple = INK
) -> None:
    """Draw text at x and y, in pixels; size is nominal."""
    face = font(size)
    draw.text((x, y), words, fill, face, anchor=anchor if isinstance(face, ImageFont.FreeTypeFont) else None)


def wrap(words: str, size: float, width: float) -> list[str]:
    """Break a text into lines of at most `width`, nominal; a word that is wider stands alone."""
    face, lines = font(size), [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and face.getlength(longer) > width * SCALE:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def draw_legend(draw: ImageDraw.ImageDraw, left: float, entries: Iterable[tuple[tuple, str]]) -> float:
    """Draw a row of coloured squares with labels below the plot, from `left` on, nominal; returns its end in pixels."""
    x, y, side = left * SCALE, (HEIGHT - 22) * SCALE, 10 * SCALE
    for colour, label in entries:
        draw.rectangle((x, y - side / 2, x + side, y + side / 2), colour)
        text(draw, x + side + 6 * SCALE, y, label, 10.5)
        x += side + 24 * SCALE + draw.textlength(label, font(10.5))
    return x


def round_up(value: float) -> float:
    """Round up to 1, 1.5, 2, 3, 4, 6 or 8 times a power of ten, so that quarters of it are round, too."""
    if value <= 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 1.5, 2, 3, 4, 6, 8, 10) if value <= power * step * (1 + 1e-9))
