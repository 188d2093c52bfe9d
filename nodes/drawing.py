"""What the pack's plots share: their size, their colours, text and round numbers. Pillow only.

Drawn at twice the nominal size, so that a plot stays crisp when a graph is zoomed. Lengths named here are nominal ones.
"""

from __future__ import annotations

import math

from PIL import Image, ImageDraw, ImageFont

SCALE = 2
WIDTH, HEIGHT = 760, 400
PAPER, INK, FAINT, GRID = (252, 252, 250), (34, 36, 40), (120, 124, 130), (226, 228, 230)
COLOURS = {"full": (58, 84, 132), "token": (86, 162, 178), "reuse": (216, 200, 160)}
LINE = (200, 76, 48)
REUSE_STUB = 0.012  # a reuse step computes nothing; a sliver shows that it is there


def new_plot() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty sheet and the pen for it."""
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    return image, ImageDraw.Draw(image)


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, of a nominal size."""
    try:
        return ImageFont.load_default(size * SCALE)
    except TypeError:  # an old Pillow has its default font in one size only
        return ImageFont.load_default()


def text(
    draw: ImageDraw.ImageDraw, x: float, y: float, words: str, size: float = 11, anchor: str = "lm", fill: tuple = INK
) -> None:
    """Words at a place in pixels."""
    face = font(size)
    draw.text((x, y), words, fill, face, anchor=anchor if isinstance(face, ImageFont.FreeTypeFont) else None)


def round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 6, 8 times a power of ten, so that quarter ticks read well."""
    if value <= 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 1.5, 2, 3, 4, 6, 8, 10) if value <= power * step * (1 + 1e-9))
