"""Procedural training clips with captions: a shape that moves over a ground that grows lighter from a corner.

Wan's positions are relative, so the model must learn which frame is first and which side is left. The light on the
ground requires both in every clip, at every noise level. A shape moves from near the middle to the side that the
caption names: on a centred path only direction, place and time together would determine anything, which gradients do
not find. Each scene is drawn twice, with opposite directions and the same noise: the pair differs in the word for the
direction alone.

Clips are drawn from distance functions at any size, so every clip is new; a seed gives the same clips everywhere.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..words import COLOURS, DIRECTIONS, MANNERS, SHAPES, SIZES

TOKEN = 4  # pixels; shapes stand on tokens and move by a token per frame, so that their patterns repeat
PLACES = (-1, 0, 1)  # tokens from the middle of the frame to the shape in its second frame
OPPOSITES = {"left": "right", "right": "left", "up": "down", "down": "up"}
WITH_CORNERS = ("square", "triangle")  # shapes whose rotation is visible
LIGHT = (0.75, 1.25)  # on the ground in the first and in the last frame
LIGHT_FALL = 0.25  # from the left to the right edge and from the upper to the lower
TURN = math.tau / 3  # of a spinning shape, per clip


@dataclass(frozen=True)
class Thing:
    """A shape. x, y: its place in the second frame, in tokens from the middle; radius: a share of the frame."""

    shape: str
    colour: str
    size: str
    manner: str
    direction: str
    x: int
    y: int

    @property
    def radius(self) -> float:
        return SIZES[self.size]

    def describe(self, rng: random.Random) -> str:
        size = f"{self.size} " if rng.random() < 0.8 else ""
        manner = f"moving {self.direction}" if self.manner == "moving" else self.manner
        return with_article(f"{size}{self.colour} {self.shape} {manner}")


def with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def draw_thing(rng: random.Random, colour: str) -> Thing:
    manner = rng.choices(MANNERS, weights=(6, 1, 1))[0]
    shape = rng.choice(WITH_CORNERS if manner == "spinning" else SHAPES)
    size, direction = rng.choice(list(SIZES)), rng.choice(list(DIRECTIONS))
    return Thing(shape, colour, size, manner, direction, rng.choice(PLACES), rng.choice(PLACES))


class Outline(Protocol):
    """The outline of a shape; the radius is a share of the frame."""

    @property
    def shape(self) -> str: ...
    @property
    def radius(self) -> float: ...


def signed_distance(thing: Outline, x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
    """Return the distance to the outline, negative inside, in shares of the frame."""
    if thing.shape == "circle":
        return torch.hypot(x, y) - thing.radius
    if thing.shape == "ring":
        return (torch.hypot(x, y) - 0.75 * thing.radius).abs() - 0.3 * thing.radius
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    if thing.shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.85 * thing.radius
    sides = torch.stack([u * math.sin(k * math.tau / 3) + v * math.cos(k * math.tau / 3) for k in range(3)])
    return sides.amax(0) - 0.6 * thing.radius


def paint(thing: Thing, clip: Tensor) -> Tensor:
    """Draw the thing over the clip `[T, 3, H, W]`."""
    frames, _, height, width = clip.shape
    frame = torch.arange(frames).view(-1, 1, 1)
    dx, dy = DIRECTIONS[thing.direction] if thing.manner == "moving" else (0.0, 0.0)
    left, top = (TOKEN * (place + d * (frame - 1)) for place, d in ((thing.x, dx), (thing.y, dy)))
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = (x - left) / width - 0.5, (y - top) / height - 0.5
    angle = TURN * frame / frames if thing.manner == "spinning" else torch.zeros(frames, 1, 1)
    return lay_over(clip, signed_distance(thing, x, y, angle), thing.radius, thing.colour)


def lay_over(clip: Tensor, distance: Tensor, radius: float, colour: str, shown: Tensor | None = None) -> Tensor:
    """Draw a shape over a clip `[T, 3, H, W]`, from its distance `[T, H, W]`; shown: 0 or 1 per frame `[T]`."""
    cover = (0.5 - distance * clip.shape[-2]).clamp(0, 1)[:, None]
    if shown is not None:
        cover = cover * shown.view(-1, 1, 1, 1)
    shade = (1.0 + 0.6 * distance / radius).clamp(0.55, 1.0)[:, None]
    paint = torch.tensor(COLOURS[colour]).view(3, 1, 1)
    return clip * (1 - cover) + paint * (1.1 - 0.35 * shade).clamp(max=1.0) * cover


def daylight(frames: int, height: int, width: int) -> Tensor:
    """Return the light on the ground `[T, 1, H, W]`, which grows from frame to frame and falls from a corner."""
    light = torch.linspace(*LIGHT, frames).view(-1, 1, 1, 1)
    return light * torch.linspace(1, 1 - LIGHT_FALL, height).view(-1, 1) * torch.linspace(1, 1 - LIGHT_FALL, width)


def ground_colour(colour: str) -> Tensor:
    """Return the colour of a ground `[3, 1, 1]`, paler than a shape of that colour."""
    return torch.tensor(COLOURS[colour]).view(3, 1, 1) * 0.75 + 0.12


def draw_pair(rng: random.Random, frames: int, height: int, width: int) -> list[tuple[Tensor, str]]:
    """Draw a scene twice, as clips `[T, 3, H, W]` in 0...1 with captions.

    In the second clip the shape moves in the opposite direction, or moves where it stands or spins in the first.
    """
    ground, colour = rng.sample(list(COLOURS), 2)
    empty = daylight(frames, height, width) * ground_colour(ground)
    thing = draw_thing(rng, colour)
    twin = replace(thing, manner="moving", direction=OPPOSITES[thing.direction])
    where = f"over {with_article(ground + ' ground')}"
    return [(paint(each, empty).clamp(0, 1), f"{each.describe(rng)} {where}") for each in (thing, twin)]


DrawPair = Callable[[random.Random, int, int, int], list[tuple[Tensor, str]]]


def draw_batch(
    seed: int, count: int, frames: int, height: int, width: int, draw: DrawPair = draw_pair
) -> tuple[Tensor, list[str]]:
    """Draw clips `[count, T, 3, H, W]` and captions from a seed; clips 2k and 2k + 1 are a pair, drawn by `draw`."""
    rng = random.Random(seed)
    pairs = [draw(rng, frames, height, width) for _ in range((count + 1) // 2)]
    clips, captions = zip(*[clip for pair in pairs for clip in pair][:count], strict=True)
    return torch.stack(clips), list(captions)
