"""Draws the pack's icon and banner, next to this file: python docs/pictures/draw_logo.py. Needs Pillow alone.

A strip of sampling steps, computed ones bright and forecast ones faint, curves up into a star.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

FOLDER = Path(__file__).resolve().parent
FINER = 3  # drawn so many times larger: Pillow's shapes have hard edges

Point = tuple[float, float]
Color = tuple[int, int, int]

ZENITH: Color = (6, 8, 22)
HORIZON: Color = (34, 28, 78)
HALO: Color = (60, 66, 150)
VIOLET: Color = (124, 108, 236)
WARM: Color = (255, 196, 112)
LIGHT: Color = (255, 247, 226)
PALE: Color = (190, 194, 236)
FAINT: Color = (128, 136, 214)


@dataclass(frozen=True)
class Strip:
    """A strip of steps along a cubic Bézier curve; positions and widths in pixels.

    `computed` says of each step, from the first to the last, that the model runs; the strip narrows from `widths[0]`
    to `widths[1]`, and a step's length with it.
    """

    curve: tuple[Point, Point, Point, Point]
    computed: tuple[bool, ...]
    widths: tuple[float, float]
    gap: float  # between steps, as a share of a step
    end: float = 1.0  # parameter at which the last step ends; the curve goes on to the star

    def at(self, t: float) -> Point:
        """Position at parameter `t`, 0…1."""
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        x, y = (sum(w * point[axis] for w, point in zip(weights, self.curve, strict=True)) for axis in (0, 1))
        return x, y

    def edge(self, t: float, side: int) -> Point:
        """Position at `t` on one edge of the strip; `side` is 1 or -1."""
        (x0, y0), (x1, y1) = self.at(t - 1e-3), self.at(t + 1e-3)
        length = math.hypot(x1 - x0, y1 - y0)
        half = side * (self.widths[0] + (self.widths[1] - self.widths[0]) * t) / 2
        x, y = self.at(t)
        return x - (y1 - y0) / length * half, y + (x1 - x0) / length * half

    def parameters(self) -> list[float]:
        """The parameters at which the steps begin and, as the last, the strip ends: lengths follow the widths."""
        fine = [self.end * index / 400 for index in range(401)]
        # Length of the curve in units of the strip's width there: equal shares of it look alike.
        reached = [0.0]
        for t, after in pairwise(fine):
            width = math.dist(self.edge(t, 1), self.edge(t, -1))
            reached.append(reached[-1] + math.dist(self.at(t), self.at(after)) / width)
        shares = [reached[-1] * step / len(self.computed) for step in range(len(self.computed))]
        starts = [next(t for t, length in zip(fine, reached, strict=True) if length >= share) for share in shares]
        return [*starts, self.end]

    def cells(self) -> list[list[Point]]:
        """The outline of every step."""
        borders = self.parameters()
        outlines = []
        for start, end in pairwise(borders):
            inset = (end - start) * self.gap / 2
            steps = [start + inset + (end - start - 2 * inset) * part / 12 for part in range(13)]
            outlines.append([self.edge(t, 1) for t in steps] + [self.edge(t, -1) for t in reversed(steps)])
        return outlines


def sky(size: tuple[int, int], center: Point, reach: float) -> Image.Image:
    """A night sky, lighter towards the horizon and around `center`."""
    gradient = Image.linear_gradient("L").resize(size)
    picture = Image.composite(Image.new("RGB", size, HORIZON), Image.new("RGB", size, ZENITH), gradient)
    return add_light(picture, glow(size, center, reach, 0.5), HALO)


def glow(size: tuple[int, int], center: Point, reach: float, strength: float) -> Image.Image:
    """A round light that fades towards `reach`: 0…255 · strength."""
    side = round(2 * reach)
    # Pillow's gradient is 0 in the middle and 180 at the nearest border.
    fade = [round(255 * strength * max(0, 1 - distance / 180) ** 2) for distance in range(256)]
    light = Image.radial_gradient("L").resize((side, side)).point(fade)
    mask = Image.new("L", size)
    mask.paste(light, (round(center[0] - reach), round(center[1] - reach)))
    return mask


def add_light(picture: Image.Image, mask: Image.Image, color: Color) -> Image.Image:
    """The picture with a colour of light added where the mask says."""
    light = Image.composite(Image.new("RGB", picture.size, color), Image.new("RGB", picture.size), mask)
    return ImageChops.screen(picture, light)


def shape(size: tuple[int, int], outlines: Sequence[Sequence[Point]], rounding: float) -> Image.Image:
    """A mask of filled outlines with their corners rounded."""
    mask = Image.new("L", size)
    for outline in outlines:
        ImageDraw.Draw(mask).polygon(list(outline), fill=255)
    # A blurred shape cut at half its height keeps its edges and loses its corners.
    return mask.filter(ImageFilter.GaussianBlur(rounding)).point(lambda value: 255 if value >= 128 else 0)


def star(center: Point, radius: float, waist: float, turn: float = 0.0) -> list[Point]:
    """The outline of a four-pointed star with hollow sides."""
    points = []
    for step in range(360):
        angle = math.radians(step)
        # An astroid; a larger power hollows its sides further.
        x, y = (math.copysign(abs(value) ** waist, value) for value in (math.cos(angle), math.sin(angle)))
        turned = math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y
        points.append((center[0] + radius * turned[0], center[1] + radius * turned[1]))
    return points


def scatter(picture: Image.Image, count: int, avoid: Image.Image) -> Image.Image:
    """The picture with small stars, none of them where `avoid` has light."""
    draws = random.Random(1)
    mask = Image.new("L", picture.size)
    unit = min(picture.size) / 400
    while count:
        x, y = draws.uniform(0, picture.width - 1), draws.uniform(0, picture.height - 1)
        radius, light = unit * draws.choice((0.6, 0.8, 0.8, 1.3)), draws.randint(70, 200)
        if avoid.getpixel((int(x), int(y))) == 0:
            ImageDraw.Draw(mask).ellipse((x - radius, y - radius, x + radius, y + radius), fill=light)
            count -= 1
    return add_light(picture, mask, LIGHT)


def draw(strip: Strip, radius: float, stars: int, empty: Image.Image) -> Image.Image:
    """The sky with the strip and, at its end, the star of this radius; no small stars where `empty` has light."""
    size, center = empty.size, strip.curve[3]
    cells = list(zip(strip.cells(), strip.computed, strict=True))
    rounding = strip.widths[1] / 6
    bright = shape(size, [cell for cell, runs in cells if runs], rounding)
    faint = shape(size, [cell for cell, runs in cells if not runs], rounding)
    taken = ImageChops.lighter(
        blurred(ImageChops.lighter(bright, faint), radius / 8), glow(size, center, 1.5 * radius, 1)
    )
    picture = scatter(sky(size, center, 1.1 * min(size)), stars, ImageChops.lighter(taken, empty))
    picture = add_light(picture, faint.point(lambda value: value * 22 // 100), FAINT)
    picture = add_light(picture, rim(faint, strip.widths[0] / 30).point(lambda value: value * 55 // 100), FAINT)
    picture = add_light(picture, blurred(bright, radius / 5).point(lambda value: value * 50 // 100), WARM)
    near = glow(size, center, math.dist(center, strip.curve[0]), 1).point(lambda value: min(255, 2 * value))
    picture.paste(Image.composite(Image.new("RGB", size, LIGHT), Image.new("RGB", size, WARM), near), mask=bright)
    return shining(picture, center, radius)


def shining(picture: Image.Image, center: Point, radius: float) -> Image.Image:
    """The picture with the star."""
    picture = add_light(picture, glow(picture.size, center, 2.1 * radius, 0.55), VIOLET)
    picture = add_light(picture, glow(picture.size, center, 1.1 * radius, 0.6), WARM)
    between = shape(picture.size, [star(center, 0.62 * radius, 4.6, math.pi / 4)], radius / 120)
    picture = add_light(picture, blurred(between, radius / 40).point(lambda value: value * 45 // 100), LIGHT)
    body = shape(picture.size, [star(center, radius, 4.4)], radius / 120)
    picture = add_light(picture, blurred(body, radius / 7), WARM)
    picture.paste(LIGHT, mask=body)
    return add_light(picture, glow(picture.size, center, 0.5 * radius, 1), LIGHT)


def blurred(mask: Image.Image, radius: float) -> Image.Image:
    """A mask with soft edges."""
    return mask.filter(ImageFilter.GaussianBlur(radius))


def rim(mask: Image.Image, width: float) -> Image.Image:
    """The inner border of a mask's shapes."""
    return ImageChops.subtract(mask, blurred(mask, width).point(lambda value: 255 if value > 235 else 0))


def icon(side: int = 400) -> Image.Image:
    """The square icon: no text, few and large cells, so that it is read at 64 pixels, too."""
    unit = side * FINER / 400
    curve = tuple((x * unit, y * unit) for x, y in ((34, 312), (160, 366), (286, 330), (264, 134)))
    strip = Strip(curve, steps("CCfCfCf"), (90 * unit, 24 * unit), 0.17, 0.8)
    picture = draw(strip, 118 * unit, 26, Image.new("L", (side * FINER, side * FINER)))
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def banner(size: tuple[int, int] = (1260, 540)) -> Image.Image:
    """The wide banner, with the pack's name and its promise."""
    unit = size[1] * FINER / 540
    curve = tuple((x * unit, y * unit) for x, y in ((76, 424), (500, 506), (1010, 490), (1000, 206)))
    strip = Strip(curve, steps("CCCfCfCffCffC"), (108 * unit, 30 * unit), 0.16, 0.85)
    words = Image.new("L", (size[0] * FINER, size[1] * FINER))
    ImageDraw.Draw(words).rectangle((70 * unit, 70 * unit, 550 * unit, 260 * unit), fill=255)
    picture = draw(strip, 158 * unit, 80, words)
    pen, name = ImageDraw.Draw(picture), ImageFont.load_default(124 * unit)
    left = 84 * unit
    for letter in "Astraea":
        pen.text((left, 178 * unit), letter, LIGHT, name, anchor="ls")
        left += pen.textlength(letter, name) + 6 * unit
    pen.text((90 * unit, 236 * unit), "The same video sooner", PALE, ImageFont.load_default(36 * unit), anchor="ls")
    return picture.resize(size, Image.Resampling.LANCZOS)


def steps(letters: str) -> tuple[bool, ...]:
    """A run's steps from letters: C for a computed one, f for a forecast one."""
    return tuple(letter == "C" for letter in letters)


if __name__ == "__main__":
    icon().save(FOLDER / "icon.png", optimize=True)
    banner().save(FOLDER / "banner.png", optimize=True)
