"""Draws two clips side by side for the graph: the verdict, labels, the difference, and how close each frame is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .drawing import ACCENT, FAINT, GRID, INK, PAPER, SCALE, Axis, font, text

PANE_WIDTHS, MAX_PANE_HEIGHT = (240, 460), 800  # pixels of a clip's frame
MAX_FRAMES = 240  # that are drawn; a frame takes 7 MB
GAP, HEADER, LABEL = 8, 62, 24
GAIN = 8.0  # of the difference, to be seen
MAX_DB = 60.0  # of the curve


def draw_comparison(left: Tensor, right: Tensor, verdict: str, detail: str, decibels: Sequence[float]) -> Tensor:
    """Draw the frames of two clips `[T, H, W, 3]` in 0...1, as a batch `[T', H', W', 3]` of at most MAX_FRAMES.

    verdict, detail: the two lines above; decibels: PSNR of each frame, inf where a frame is identical.
    """
    every = math.ceil(len(left) / MAX_FRAMES)
    left, right = (_fit(clip[::every].float().cpu()) for clip in (left, right))
    difference = ((right - left).abs() * GAIN).clamp(0, 1)
    height, width = left.shape[1:3]
    page = _page(width, height, verdict, detail, decibels)
    frames = page.expand(len(left), *page.shape).clone()
    top, below = HEADER + LABEL, HEADER + 2 * LABEL + height
    frames[:, top : top + height, GAP : GAP + width] = left
    frames[:, top : top + height, 2 * GAP + width : 2 * (GAP + width)] = right
    frames[:, below : below + height, GAP : GAP + width] = difference
    if any(math.isfinite(each) for each in decibels):
        _mark(frames, 2 * GAP + width, below, width, height)
    return frames


def _fit(clip: Tensor) -> Tensor:
    """Scale frames to a width that can be looked at: small ones by whole pixels, large ones smoothly."""
    height, width = clip.shape[1:3]
    enlarge = min(math.ceil(PANE_WIDTHS[0] / width), MAX_PANE_HEIGHT // height)
    if enlarge > 1:
        return clip.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2)
    shrink = min(PANE_WIDTHS[1] / width, MAX_PANE_HEIGHT / height)
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in (height, width)]
        return F.interpolate(clip.movedim(-1, 1), size, mode="bilinear", antialias=True).movedim(1, -1)
    return clip


def _page(width: int, height: int, verdict: str, detail: str, decibels: Sequence[float]) -> Tensor:
    """Draw what is the same in all frames: texts, and the curve of the frames' PSNR."""
    size = (2 * width + 3 * GAP, HEADER + 2 * LABEL + 2 * height + GAP)
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    _line(draw, GAP, 24, verdict, 26, ACCENT, size[0] - 2 * GAP)
    _line(draw, GAP, 50, detail, 15, FAINT, size[0] - 2 * GAP)
    second = 2 * GAP + width
    for x, y, label in (
        (GAP, HEADER, "original"),
        (second, HEADER, "accelerated"),
        (GAP, HEADER + LABEL + height, f"difference, {GAIN:g} times"),
        (second, HEADER + LABEL + height, "dB of each frame, higher is closer"),
    ):
        _line(draw, x, y + LABEL / 2, label, 14, INK, width)
    _curve(draw, second, HEADER + 2 * LABEL + height, width, height, decibels)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)


def _line(draw: ImageDraw.ImageDraw, x: float, y: float, words: str, size: float, fill: tuple, width: float) -> None:
    """Write a line at most `width` pixels wide, in smaller letters if need be; sizes are pixels here."""
    while size > 9 and font(size / SCALE).getlength(words) > width:
        size -= 1
    text(draw, x, y, words, size / SCALE, fill=fill)


def _axes(left: int, top: int, width: int, height: int, count: int) -> tuple[Axis, Axis]:
    return Axis(0, max(1, count - 1), left + 34, left + width - 8), Axis(0, MAX_DB, top + height - 10, top + 8)


def _curve(draw: ImageDraw.ImageDraw, left: int, top: int, width: int, height: int, decibels: Sequence[float]) -> None:
    across, up = _axes(left, top, width, height, len(decibels))
    for value in (20, 40, 60):
        draw.line((across.start, up.at(value), across.end, up.at(value)), GRID, 1)
        text(draw, across.start - 6, up.at(value), str(value), 13 / SCALE, "rm", FAINT)
    points = [(across.at(n), up.at(min(each, MAX_DB))) for n, each in enumerate(decibels) if not math.isnan(each)]
    if len(points) > 1:
        draw.line(points, ACCENT, 3, joint="curve")
    elif points:
        (x, y) = points[0]
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), ACCENT)


def _mark(frames: Tensor, left: int, top: int, width: int, height: int) -> None:
    """Draw a line at each frame's place on the curve."""
    across, up = _axes(left, top, width, height, len(frames))
    colour = torch.tensor(FAINT) / 255.0
    for number, frame in enumerate(frames):
        x = round(across.at(number))
        frame[round(up.end) : round(up.start), x : x + 1] = colour
