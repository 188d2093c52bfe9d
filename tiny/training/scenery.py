"""Procedural clips of scenery with captions, to train the demo model on: skies, ridges in mist, water, one subject.

A scene is a function of place and time that is evaluated for all pixels at once; water evaluates it again at mirrored
places, which makes reflections. Every scene is drawn twice, the second time mirrored from left to right, with the
directions in its caption exchanged: the pair differs in the word for the direction alone. A seed gives the same clips
everywhere.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..demo_model.words import BALLOONS, PLACES, SAILS, TIMES

Colour = tuple[float, float, float]
HORIZON = 0.66  # of the height, from above
RIDGES = {"mountains": 3, "hills": 3, "lake": 2, "sea": 0}


@dataclass(frozen=True)
class Palette:
    """Colours of a time of day: zenith, middle and horizon of the sky, the nearest ridge, the sun or moon."""

    zenith: Colour
    middle: Colour
    horizon: Colour
    near: Colour
    light: Colour


PALETTES = {
    "dawn": Palette((0.33, 0.44, 0.74), (0.78, 0.66, 0.78), (1.00, 0.80, 0.66), (0.20, 0.20, 0.38), (1.0, 0.93, 0.78)),
    "noon": Palette((0.16, 0.45, 0.86), (0.44, 0.7, 0.95), (0.84, 0.93, 0.97), (0.08, 0.32, 0.28), (1.0, 0.99, 0.88)),
    "sunset": Palette((0.20, 0.12, 0.40), (0.80, 0.30, 0.44), (1.00, 0.66, 0.26), (0.13, 0.05, 0.18), (1.0, 0.9, 0.55)),
    "night": Palette(
        (0.02, 0.04, 0.14), (0.05, 0.12, 0.27), (0.14, 0.28, 0.44), (0.01, 0.03, 0.08), (0.96, 0.96, 0.88)
    ),
}


@dataclass(frozen=True)
class Scene:
    """Content of a clip in words; `seed` draws everything that no word names."""

    place: str
    time: str
    subject: str  # "", "boat" or "balloon"
    colour: str
    direction: str  # of the subject: left or right
    aurora: bool
    seed: int

    def caption(self) -> str:
        """Return the caption, as in "a red balloon drifting left over mountains at dawn"."""
        where = {"mountains": "mountains", "hills": "hills", "lake": "a lake", "sea": "the sea"}[self.place]
        manner = {"boat": "sailing", "balloon": "drifting"}.get(self.subject, "")
        preposition = {"boat": "on", "balloon": "over"}.get(self.subject, "")
        what = f"a {self.colour} {self.subject} {manner} {self.direction} {preposition} " if self.subject else ""
        when = {"dawn": "at dawn", "noon": "at noon", "sunset": "at sunset", "night": "at night"}[self.time]
        return f"{what}{where} {when}{' under northern lights' if self.aurora else ''}".replace("a orange", "an orange")


def draw_scene(rng: random.Random) -> Scene:
    """Draw a scene."""
    place, time = rng.choice(PLACES), rng.choices(TIMES, weights=(3, 2, 3, 4))[0]
    watery = place in ("lake", "sea")
    subject = rng.choices(("", "boat" if watery else "balloon", "balloon"), weights=(1, 6, 3))[0]
    colours = SAILS if subject == "boat" else BALLOONS
    return Scene(
        place,
        time,
        subject,
        rng.choice(tuple(colours)),
        rng.choice(("left", "right")),
        time == "night" and rng.random() < 0.6,
        rng.getrandbits(32),
    )


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Blend colours `[..., 3]` by a share `[...]`."""
    return a + (b - a) * share[..., None]


def smooth(x: Tensor, low: float, high: float) -> Tensor:
    """Return a smooth step from 0 at `low` to 1 at `high`."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def jitter(rng: random.Random, colour: Colour, by: float = 0.035) -> Tensor:
    return torch.tensor([min(1.0, max(0.0, part + rng.uniform(-by, by))) for part in colour])


@dataclass(frozen=True)
class Colours:
    """The palette of a scene, a little off its time's, as tensors `[3]`."""

    zenith: Tensor
    middle: Tensor
    horizon: Tensor
    near: Tensor
    light: Tensor


@dataclass(frozen=True)
class Sun:
    """The sun or moon: its place in the middle of the clip, the height that it sinks by, its radius."""

    x: float
    y: float
    sinks: float
    radius: float


@dataclass(frozen=True)
class Course:
    """The course of the subject: where it is, and the way to the right that it makes in a clip.

    phase: of its swaying; size: its scale. It is nearly the same in all clips: with any place a model this small shows
    a subject in several places at once.
    """

    start: float
    height: float
    way: float
    phase: float
    size: float


class Painter:
    """Paints one scene; all random choices are made at construction. Lengths are shares of the picture's height."""

    def __init__(self, scene: Scene, aspect: float):
        self.scene, self.aspect = scene, aspect
        rng = random.Random(scene.seed)
        palette = PALETTES[scene.time]
        jittered = (jitter(rng, each) for each in (palette.zenith, palette.middle, palette.horizon, palette.near))
        self.colours = Colours(*jittered, torch.tensor(palette.light))
        self.horizon = HORIZON + rng.uniform(-0.04, 0.04) if scene.place in ("lake", "sea") else 2.0
        low = scene.time in ("dawn", "sunset")
        self.sun = Sun(
            x=rng.uniform(0.2, 0.8) * aspect,
            y=rng.uniform(0.38, 0.56) if low else rng.uniform(0.14, 0.34),
            sinks={"dawn": -0.10, "sunset": 0.10}.get(scene.time, rng.uniform(-0.03, 0.03)),
            radius=rng.uniform(0.05, 0.075) if low else rng.uniform(0.04, 0.055),
        )
        self.pan = rng.choice((-1, 1)) * rng.uniform(0.10, 0.22)
        self.ridges = [self._ridge(rng, k) for k in range(RIDGES[scene.place])]
        self.clouds = [self._cloud(rng) for _ in range(rng.randint(2, 4))]
        self.stars = [(rng.uniform(0, aspect), rng.uniform(0.02, 0.5), rng.uniform(0.3, 1.0)) for _ in range(34)]
        self.curtains = [[rng.uniform(0, math.tau) for _ in range(4)] for _ in range(2)]
        to_right = scene.direction == "right"
        self.course = Course(
            start=((0.41 if to_right else 0.59) + rng.uniform(-0.015, 0.015)) * aspect,
            height=rng.uniform(0.32, 0.35),
            way=rng.uniform(0.37, 0.39) * (1 if to_right else -1),
            phase=rng.uniform(0, math.tau),
            size=rng.uniform(1.68, 1.72),
        )

    def _ridge(self, rng: random.Random, number: int) -> dict:
        count = RIDGES[self.scene.place]
        far = 1 - (number + 1) / count
        base = (0.80 if count == 3 else 0.64) - (0.30 if count == 3 else 0.10) * far + rng.uniform(-0.03, 0.03)
        sharp = self.scene.place != "hills"
        waves = [(rng.uniform(0.7, 1.3) * 2**k * 1.1, rng.uniform(0, math.tau)) for k in range(5 if sharp else 3)]
        return {"far": far, "base": base, "sharp": sharp, "waves": waves, "height": 0.10 + 0.07 * far}

    def _cloud(self, rng: random.Random) -> tuple[float, ...]:
        return (
            rng.uniform(0, self.aspect),
            rng.uniform(0.08, 0.42),
            rng.uniform(0.16, 0.34),
            rng.uniform(0.018, 0.035),
        )

    def paint(self, frames: int, height: int, width: int) -> Tensor:
        """Paint the clip `[T, 3, H, W]` in 0...1."""
        t = torch.linspace(0, 1, frames).view(-1, 1, 1)
        y = ((torch.arange(height) + 0.5) / height).view(1, -1, 1)
        x = ((torch.arange(width) + 0.5) / height).view(1, 1, -1)
        pixel = 1.0 / height
        picture = self._above(x, y, t, pixel)
        if self.horizon < 1:
            picture = self._water(picture, x, y, t)
        picture = self._subject(picture, x, y, t, pixel)
        return picture.clamp(0, 1).movedim(-1, 1)

    def _water(self, picture: Tensor, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """Return the picture `[T, H, W, 3]` with water below the horizon, which mirrors what is above."""
        depth = (y - self.horizon).clamp(min=0)
        near = depth / (1 - self.horizon)
        wave = torch.sin(depth**0.5 * 58 + 9 * t + 1.5 * torch.sin(x * 7 + 3 * t)) * near**0.5
        mirrored = self.horizon - depth * 1.15 - wave * 0.022
        place = torch.stack([2 * (x + wave * 0.018) / self.aspect - 1, 2 * mirrored - 1], dim=-1)
        seen = F.grid_sample(picture.movedim(-1, 1), place, padding_mode="border", align_corners=False).movedim(1, -1)
        tint = mix(self.colours.near, self.colours.zenith, torch.tensor(0.5))
        water = mix(seen * 0.92, tint, 0.16 + 0.34 * near) + 0.035 * wave[..., None]
        return torch.where((depth > 0)[..., None], water, picture)

    def _above(self, x: Tensor, y: Tensor, t: Tensor, pixel: float) -> Tensor:
        """Return the colours `[T, H, W, 3]` of sky and ridges; x `[1, 1, W]`, y `[1, H, 1]`, t `[T, 1, 1]`."""
        level = (y / min(self.horizon, 0.72)).clamp(0, 1)
        colour = mix(self.colours.zenith, self.colours.middle, smooth(level, 0.0, 0.62))
        colour = mix(colour, self.colours.horizon, smooth(level, 0.45, 1.0))
        if self.scene.time == "night":
            colour = colour + self._starlight(x, y, t)[..., None]
        if self.scene.aurora:
            colour = self._aurora(colour, x, y, t)
        colour = self._sunlight(colour, x, y, t, pixel)
        colour = self._cloudy(colour, x, y, t)
        for ridge in self.ridges:
            colour = self._mountain(colour, ridge, x, y, t, pixel)
        return colour

    def _starlight(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        place_x, place_y, bright = (torch.tensor(values) for values in zip(*self.stars, strict=True))
        across, down = (
            torch.exp(-((v - p[:, None]) ** 2) / 0.0052**2) for v, p in ((x[0], place_x), (y[0].T, place_y))
        )
        twinkle = bright * (0.75 + 0.25 * torch.sin(9 * t[:, 0] + 40 * place_x))
        return torch.einsum("ts,sh,sw->thw", twinkle, down, across)

    def _aurora(self, colour: Tensor, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        for number, (a, b, c, d) in enumerate(self.curtains):
            foot = (
                0.36 + 0.10 * number + 0.07 * torch.sin(2.1 * x + a + 1.6 * t) + 0.03 * torch.sin(5.3 * x + b - 2.2 * t)
            )
            up = foot - y
            rays = 0.62 + 0.38 * torch.sin(13 * x + c + 2.5 * torch.sin(3 * x + d + 1.4 * t) + 1.5 * t)
            glow = torch.where(up > 0, torch.exp(-up / 0.15), torch.exp(up / 0.018)) * rays * (0.62 - 0.2 * number)
            tone = mix(torch.tensor([0.25, 0.98, 0.62]), torch.tensor([0.62, 0.34, 0.95]), (up / 0.3).clamp(0, 1))
            colour = colour + tone * glow[..., None]
        return colour

    def _sunlight(self, colour: Tensor, x: Tensor, y: Tensor, t: Tensor, pixel: float) -> Tensor:
        distance = torch.hypot(x - self.sun.x, y - self.sun.y - self.sun.sinks * (t - 0.5))
        night = self.scene.time == "night"
        glow = torch.exp(-distance / (0.10 if night else 0.20)) * (0.28 if night else 0.55)
        colour = mix(colour, self.colours.light, glow)
        return mix(colour, self.colours.light, ((self.sun.radius - distance) / pixel * 0.6 + 0.5).clamp(0, 1))

    def _cloudy(self, colour: Tensor, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        tone = mix(self.colours.horizon, torch.ones(3), torch.tensor(0.08 if self.scene.time == "night" else 0.35))
        for cx, cy, wide, high in self.clouds:
            u = (x - cx - self.pan * 0.25 * (t - 0.5)) / wide
            v = (y - cy + 0.012 * torch.sin(6 * u)) / high
            cover = torch.exp(-((u * u) ** 2) - v * v * torch.where(v > 0, 2.5, 0.8))
            colour = mix(colour, tone, cover * (0.25 if self.scene.time == "night" else 0.5))
        return colour

    def _mountain(self, colour: Tensor, ridge: dict, x: Tensor, y: Tensor, t: Tensor, pixel: float) -> Tensor:
        far = ridge["far"]
        place = x + self.pan * (0.3 + 0.7 * (1 - far)) * (t - 0.5)
        top = torch.full_like(place, ridge["base"])
        for k, (rate, phase) in enumerate(ridge["waves"]):
            wave = torch.sin(place * rate * 2.2 + phase)
            if ridge["sharp"]:
                wave = 1 - 2 * torch.asin((0.985 * wave).clamp(-1, 1)).abs() / (math.pi / 2)
            top = top - ridge["height"] * 0.62**k * wave * (0.62 if ridge["sharp"] else 0.5)
        cover = ((y - top) / pixel * 0.6 + 0.5).clamp(0, 1)
        haze = self.colours.horizon * 0.85 + self.colours.middle * 0.15
        body = mix(self.colours.near, haze, torch.tensor(0.62 * far + 0.04))
        misty = smooth((y - top) / 0.30, 0.0, 1.0) * (0.30 + 0.3 * far)
        return mix(colour, mix(body, haze, misty), cover)

    def _subject(self, picture: Tensor, x: Tensor, y: Tensor, t: Tensor, pixel: float) -> Tensor:
        if not self.scene.subject:
            return picture
        course = self.course
        cx = course.start + course.way * (t - 0.3)
        night = 0.78 if self.scene.time == "night" else 1.0
        if self.scene.subject == "balloon":
            cy = course.height + 0.02 * torch.sin(3 * t + course.phase) - 0.03 * t
            return self._balloon(picture, (x - cx) / course.size, (y - cy) / course.size, pixel / course.size, night)
        cy = self.horizon + 0.15 + 0.006 * torch.sin(7 * t + course.phase)
        lean = 0.05 * torch.sin(5 * t + course.phase)
        u, v = (x - cx) / course.size, (y - cy) / course.size
        return self._boat(picture, u + lean * v, v, pixel / course.size, night)

    def _balloon(self, picture: Tensor, u: Tensor, v: Tensor, pixel: float, light: float) -> Tensor:
        radius = 0.115
        taper = torch.where(v > 0, 1 - 0.34 * (v / radius).clamp(0, 1.25) ** 2, 1.0)
        edge = torch.hypot(u / taper, v * torch.where(v > 0, 0.82, 1.0))
        cover = ((radius - edge) / pixel * 0.7 + 0.5).clamp(0, 1)
        colour = torch.tensor(BALLOONS[self.scene.colour])
        stripe = smooth(torch.sin(4.2 * torch.asin((u / taper / radius).clamp(-1, 1)) + 0.8), -0.25, 0.25)
        body = mix(colour, torch.tensor([1.0, 0.96, 0.88]), 0.3 * (1 - stripe))
        shade = (1.04 - 0.42 * ((u - 0.3 * v) / radius + 0.2).clamp(-0.2, 1.2) ** 2)[..., None]
        picture = mix(picture, body * shade * light, cover)
        basket = torch.maximum(u.abs() - 0.019, (v - 0.185).abs() - 0.015)
        return mix(picture, torch.tensor([0.36, 0.22, 0.12]) * light, (-basket / pixel * 0.7 + 0.5).clamp(0, 1))

    def _boat(self, picture: Tensor, u: Tensor, v: Tensor, pixel: float, light: float) -> Tensor:
        forward = u if self.scene.direction == "right" else -u
        sail = torch.tensor(SAILS[self.scene.colour])
        mirrored = torch.where(v > 0.035, 0.07 - v, v)
        fade = torch.where(v > 0.035, 0.42 * torch.exp(-(v - 0.035) / 0.10), 1.0)
        hull = torch.maximum(forward.abs() + 0.75 * mirrored.clamp(min=0) - 0.115, (mirrored - 0.016).abs() - 0.018)
        main = torch.maximum(forward - 0.012, torch.maximum(mirrored + 0.012, -(forward + 0.10) * 2.6 - mirrored - 0.0))
        jib = torch.maximum(0.022 - forward, torch.maximum(mirrored + 0.012, (forward - 0.10) * 2.9 - mirrored - 0.02))
        for shape, colour in ((main, sail), (jib, sail * 0.86), (hull, torch.tensor([0.30, 0.16, 0.10]))):
            cover = (-shape / pixel * 0.6 + 0.5).clamp(0, 1) * fade
            picture = mix(picture, colour * light, cover)
        return picture


def draw_scenery_pair(rng: random.Random, frames: int, height: int, width: int) -> list[tuple[Tensor, str]]:
    """Draw a scene and its mirror image, as clips `[T, 3, H, W]` in 0...1 with captions."""
    scene = draw_scene(rng)
    clip = Painter(scene, width / height).paint(frames, height, width)
    swapped = {"left": "right", "right": "left"}[scene.direction]
    mirrored = Scene(**{**vars(scene), "direction": swapped})
    return [(clip, scene.caption()), (clip.flip(-1), mirrored.caption())]
