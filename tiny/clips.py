"""Procedural training clips with captions: one or two shapes that move over a shaded ground.

A clip is drawn from distance functions at any size, so every clip is new; a seed gives the same clips everywhere.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from .words import COLOURS, DIRECTIONS, MANNERS, SHAPES, SIZES

PAIRS = 0.15  # share of clips with two shapes, the first named on the left


@dataclass(frozen=True)
class Thing:
    """One moving shape. Positions are shares of the frame, speeds shares of the frame per clip."""

    shape: str
    colour: str
    size: str
    manner: str
    direction: str
    x: float
    y: float
    travel: float
    turn: float
    radius: float

    def describe(self, rng: random.Random) -> str:
        size = f"{self.size} " if rng.random() < 0.8 else ""
        manner = f"moving {self.direction}" if self.manner == "moving" else self.manner
        return with_article(f"{size}{self.colour} {self.shape} {manner}")


def with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def draw_thing(rng: random.Random, colours: list[str], scale: float, centre: float) -> Thing:
    """A thing whose path is centred near `(centre, 0.5)`."""
    manner = rng.choices(MANNERS, weights=(6, 1, 1, 1))[0]
    direction = rng.choice(list(DIRECTIONS))
    travel = rng.uniform(0.4, 0.6) if manner == "moving" else 0.0
    dx, dy = DIRECTIONS[direction]
    x = centre + rng.uniform(-0.08, 0.08) - dx * travel / 2
    y = 0.5 + rng.uniform(-0.08, 0.08) - dy * travel / 2
    size = rng.choice(list(SIZES))
    shape, turn = rng.choice(SHAPES), rng.uniform(0, math.tau)
    return Thing(shape, colours.pop(), size, manner, direction, x, y, travel, turn, scale * SIZES[size])


def signed_distance(thing: Thing, x: Tensor, y: Tensor, radius: Tensor, angle: Tensor) -> Tensor:
    """Distance to the outline, negative inside, in shares of the frame."""
    if thing.shape == "circle":
        return torch.hypot(x, y) - radius
    if thing.shape == "ring":
        return (torch.hypot(x, y) - 0.75 * radius).abs() - 0.3 * radius
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    if thing.shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.85 * radius
    sides = torch.stack([u * math.sin(k * math.tau / 3) + v * math.cos(k * math.tau / 3) for k in range(3)])
    return sides.amax(0) - 0.6 * radius


def paint(thing: Thing, clip: Tensor) -> Tensor:
    """Draw the thing over the clip `[T, 3, H, W]`."""
    frames, _, height, width = clip.shape
    progress = torch.linspace(0, 1, frames).view(-1, 1, 1)
    dx, dy = DIRECTIONS[thing.direction]
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    radius = thing.radius * (0.4 + 0.9 * progress if thing.manner == "growing" else torch.ones_like(progress))
    spin = math.tau / 3 * progress if thing.manner == "spinning" else torch.zeros_like(progress)
    angle = spin + (thing.turn if thing.manner == "spinning" else 0.0)
    distance = signed_distance(
        thing, x - thing.x - dx * thing.travel * progress, y - thing.y - dy * thing.travel * progress, radius, angle
    )
    cover = (0.5 - distance * height).clamp(0, 1)[:, None]
    shade = (1.0 + 0.6 * distance / thing.radius).clamp(0.55, 1.0)[:, None]
    colour = torch.tensor(COLOURS[thing.colour]).view(3, 1, 1)
    return clip * (1 - cover) + colour * (1.1 - 0.35 * shade).clamp(max=1.0) * cover


def draw_clip(rng: random.Random, frames: int, height: int, width: int) -> tuple[Tensor, str]:
    """One clip `[T, 3, H, W]` in 0...1 and its caption."""
    colours = rng.sample(list(COLOURS), 3)
    ground = colours.pop()
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    slope = rng.uniform(0, math.tau)
    shade = 0.8 + 0.2 * (math.cos(slope) * x + math.sin(slope) * y)
    clip = (torch.tensor(COLOURS[ground]).view(3, 1, 1) * 0.75 + 0.12) * shade
    clip = clip.expand(frames, -1, -1, -1)
    scale, centres = (0.7, (0.27, 0.73)) if rng.random() < PAIRS else (1.0, (0.5,))
    things = [draw_thing(rng, colours, scale, centre) for centre in centres]
    for thing in things:
        clip = paint(thing, clip)
    caption = " and ".join(thing.describe(rng) for thing in things) + " over " + with_article(f"{ground} ground")
    return clip.clamp(0, 1), caption


def draw_batch(seed: int, count: int, frames: int, height: int, width: int) -> tuple[Tensor, list[str]]:
    """Clips `[count, T, 3, H, W]` and captions of one seed."""
    rng = random.Random(seed)
    clips, captions = zip(*(draw_clip(rng, frames, height, width) for _ in range(count)), strict=True)
    return torch.stack(clips), list(captions)
