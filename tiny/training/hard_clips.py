"""Hard clips for caches of steps: several small fast shapes over a fine texture.

The ground stands or pans, shapes pass behind one another and behind a pillar, appear and vanish, and the light may
change from one frame to the next. Every scene is drawn twice, with opposite directions, as in `clips`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..words import COLOURS, DIRECTIONS, SHAPES
from .clips import OPPOSITES, daylight, ground_colour, lay_over, signed_distance, with_article

TEXTURES = ("checked", "striped", "dotted", "speckled")
RADII = (0.11, 0.15)  # shares of the frame
SPEEDS = (5, 6, 7, 8)  # pixels a frame
START = (-14, 3)  # pixels from the middle in the second frame, along the direction; across it up to ASIDE either way
ASIDE = 18
PANS = (0, 2, 3)  # pixels a frame
PERIODS = (2, 3)  # pixels of a texture's cells
CONTRAST = 0.3  # of a texture, darkest to brightest as a share of the ground's light
SPECKLES = 512  # cells of the random texture across; it repeats after that
PILLAR = 0.16  # width as a share of the frame
DARKER, BRIGHTER = 0.4, 1.5  # of the light, after it has changed
MANNERS = {"moving": 7, "standing": 1, "appearing": 2, "vanishing": 2}  # relative frequencies


@dataclass(frozen=True)
class Mover:
    """A small shape.

    along, across: pixels from the middle in the second frame, along and across its direction; turn: the frame at which
    it appears or vanishes.
    """

    shape: str
    colour: str
    radius: float
    manner: str
    direction: str
    speed: int
    along: int
    across: int
    turn: int

    def describe(self) -> str:
        doing = self.manner if self.manner == "standing" else f"moving {self.direction}"
        doing += f" {self.manner}" if self.manner in ("appearing", "vanishing") else ""
        return with_article(f"{self.colour} {self.shape} {doing}")


@dataclass(frozen=True)
class Ground:
    """A texture in two brightnesses of one colour; phase in pixels, pan in pixels a frame towards `direction`."""

    texture: str
    colour: str
    period: int
    phase: tuple[int, int]
    pan: int
    direction: str
    speckle_seed: int

    def describe(self) -> str:
        doing = f"panning {self.direction}" if self.pan else "standing"
        return f"{with_article(f'{self.texture} {self.colour} ground')} {doing}"


@dataclass(frozen=True)
class Scene:
    """Contents of a clip. light: factor of the light from frame `change` on; 1: no change."""

    movers: tuple[Mover, ...]
    ground: Ground
    pillar: str
    light: float
    change: int

    def describe(self) -> str:
        words = " and ".join(mover.describe() for mover in self.movers)
        words += f" behind {with_article(self.pillar + ' pillar')}" if self.pillar else ""
        words += f" over {self.ground.describe()}"
        return words + ("" if self.light == 1.0 else " then dark" if self.light < 1.0 else " then bright")


def draw_scene(rng: random.Random, frames: int) -> Scene:
    below, before, *colours = rng.sample(list(COLOURS), 5)
    count = rng.choice((2, 3))
    movers = tuple(_draw_mover(rng, colour, frames) for colour in colours[:count])
    phase = (rng.randrange(64), rng.randrange(64))
    pan, direction = rng.choice(PANS), rng.choice(list(DIRECTIONS))
    texture, period = rng.choice(TEXTURES), rng.choice(PERIODS)
    ground = Ground(texture, below, period, phase, pan, direction, rng.randrange(2**31))
    light = rng.choices((1.0, DARKER, BRIGHTER), weights=(4, 1, 1))[0]
    pillar = before if rng.random() < 0.4 else ""
    return Scene(movers, ground, pillar, light, rng.randrange(2, frames - 1))


def _draw_mover(rng: random.Random, colour: str, frames: int) -> Mover:
    return Mover(
        shape=rng.choice(SHAPES),
        colour=colour,
        radius=rng.choice(RADII),
        manner=rng.choices(list(MANNERS), weights=list(MANNERS.values()))[0],
        direction=rng.choice(list(DIRECTIONS)),
        speed=rng.choice(SPEEDS),
        along=rng.randint(*START),
        across=rng.randint(-ASIDE, ASIDE),
        turn=rng.randrange(2, frames - 1),
    )


def reverse_scene(scene: Scene) -> Scene:
    """Return the scene with all directions reversed."""
    movers = tuple(
        mover if mover.manner == "standing" else replace(mover, direction=OPPOSITES[mover.direction])
        for mover in scene.movers
    )
    return replace(scene, movers=movers, ground=replace(scene.ground, direction=OPPOSITES[scene.ground.direction]))


def texture_of(ground: Ground, x: Tensor, y: Tensor) -> Tensor:
    """Return the brightness of a texture in −0.5...0.5 at integer pixels."""
    p = ground.period
    if ground.texture == "speckled":
        cells = torch.rand(SPECKLES, SPECKLES, generator=torch.Generator().manual_seed(ground.speckle_seed))
        return cells[(y // p) % SPECKLES, (x // p) % SPECKLES] - 0.5
    if ground.texture == "checked":
        return ((x // p + y // p) % 2).float() - 0.5
    if ground.texture == "striped":
        return (((x + y) // p) % 2).float() - 0.5
    u, v = (x % (3 * p)) - 1.5 * p + 0.5, (y % (3 * p)) - 1.5 * p + 0.5
    return (torch.hypot(u, v) < p).float() - 0.5


def paint_ground(scene: Scene, frames: int, height: int, width: int) -> Tensor:
    ground = scene.ground
    frame = torch.arange(frames).view(-1, 1, 1)
    dx, dy = DIRECTIONS[ground.direction]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    moved_x = x - (ground.pan * dx * frame).long() + ground.phase[0] + 1024
    moved_y = y - (ground.pan * dy * frame).long() + ground.phase[1] + 1024
    pattern = 1.0 + CONTRAST * texture_of(ground, moved_x, moved_y)[:, None]
    return ground_colour(ground.colour) * pattern * daylight(frames, height, width)


def paint_mover(mover: Mover, clip: Tensor) -> Tensor:
    """Draw the mover over the clip `[T, 3, H, W]`."""
    frames, _, height, width = clip.shape
    frame = torch.arange(frames).view(-1, 1, 1)
    dx, dy = DIRECTIONS[mover.direction]
    travelled = mover.along + (0 if mover.manner == "standing" else mover.speed) * (frame - 1)
    left, top = travelled * dx + mover.across * abs(dy), travelled * dy + mover.across * abs(dx)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = (x - left) / width - 0.5, (y - top) / height - 0.5
    distance = signed_distance(mover, x, y, torch.zeros(frames, 1, 1))
    shown = {"appearing": frame >= mover.turn, "vanishing": frame < mover.turn}.get(mover.manner)
    return lay_over(clip, distance, mover.radius, mover.colour, shown)


def paint_scene(scene: Scene, frames: int, height: int, width: int) -> Tensor:
    """Draw the clip `[T, 3, H, W]` in 0...1."""
    clip = paint_ground(scene, frames, height, width)
    for mover in scene.movers:
        clip = paint_mover(mover, clip)
    if scene.pillar:
        half = round(PILLAR * width / 2)
        bar = slice(width // 2 - half, width // 2 + half)
        clip[..., bar] = torch.tensor(COLOURS[scene.pillar]).view(3, 1, 1) * 0.9
    clip[scene.change :] *= scene.light
    return clip.clamp(0, 1)


def draw_hard_pair(rng: random.Random, frames: int, height: int, width: int) -> list[tuple[Tensor, str]]:
    """Draw a scene twice, with opposite directions, as clips `[T, 3, H, W]` in 0...1 with captions."""
    scene = draw_scene(rng, frames)
    return [(paint_scene(each, frames, height, width), each.describe()) for each in (scene, reverse_scene(scene))]
