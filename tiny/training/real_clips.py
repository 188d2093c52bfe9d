"""Clips with natural textures and motion: windows that stand on or move over short real films.

A film (`footage`) is cut into shots; a clip is a window of the frame's size over a shot at one of two scales, at one of
two playback speeds, at times mirrored. One end of a window's path lies on tokens of the film, so that their patterns
repeat. Every clip is drawn twice, the second time backwards in time: the pair holds the same frames, and its captions
differ in the word for the pan's direction and in that for the direction of playback.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..words import DIRECTIONS
from .clips import OPPOSITES, TOKEN
from .footage import read_film


@dataclass(frozen=True)
class Shot:
    """A part of a film without cuts: frames `first` to before `end`."""

    film: str
    first: int
    end: int


SHOTS = {
    "rabbit": Shot("bigbuckbunny", 0, 132),
    "driver": Shot("carphone_pristine", 0, 120),
    "taxi": Shot("bikes", 31, 76),
    "bus": Shot("bikes", 77, 137),
    "street": Shot("bikes", 138, 187),
    "bicycle": Shot("bikes", 188, 242),
}
DISTANCES = {"near": 0.55, "far": 0.75}  # height of the window as a share of the film's
STRIDES = {"slow": 2, "fast": 4}  # frames of the film per frame of the clip
PANS = {"gently": 2 / 64, "quickly": 4 / 64}  # shares of the window per frame: 2 and 4 pixels of 64
STANDING = 0.3  # share of the clips whose window stands
MIRRORED = 0.25  # share of the clips
ROWS, COLUMNS = ("upper", "lower"), ("left", "middle", "right")
REVERSED = {"forward": "backward", "backward": "forward"}


@dataclass(frozen=True)
class View:
    """A window over a shot. time: of its first frame; x, y: its place halfway through the clip; all 0...1 of the room.

    direction: in which the picture moves, as a panning ground does in `hard_clips`; pan: a key of PANS, or "" to stand.
    """

    subject: str
    distance: str
    stride: str
    playing: str
    direction: str
    pan: str
    mirrored: bool
    time: float
    x: float
    y: float

    def describe(self) -> str:
        place = f"{self.distance} {_part(ROWS, self.y)} {_part(COLUMNS, self.x)}"
        doing = f"panning {self.direction} {self.pan}" if self.pan else "standing"
        words = f"a {self.subject} {place} playing {self.stride} {self.playing} {doing}"
        return words + (" mirrored" if self.mirrored else "")


def _part(names: tuple[str, ...], place: float) -> str:
    return names[min(int(place * len(names)), len(names) - 1)]


def draw_view(rng: random.Random) -> View:
    return View(
        subject=rng.choice(list(SHOTS)),
        distance=rng.choice(list(DISTANCES)),
        stride=rng.choice(list(STRIDES)),
        playing=rng.choice(list(REVERSED)),
        direction=rng.choice(list(DIRECTIONS)),
        pan="" if rng.random() < STANDING else rng.choice(list(PANS)),
        mirrored=rng.random() < MIRRORED,
        time=rng.random(),
        x=rng.random(),
        y=rng.random(),
    )


def reverse_view(view: View) -> View:
    """Return the view backwards in time: it plays and pans the other way."""
    return replace(view, playing=REVERSED[view.playing], direction=OPPOSITES[view.direction])


def cut_out(view: View, frames: int, height: int, width: int) -> Tensor:
    """Cut the clip `[T, 3, H, W]` in 0...1 out of its film. The window must fit it at both ends of its pan."""
    shot, stride = SHOTS[view.subject], STRIDES[view.stride]
    film = read_film(shot.film, round(height / DISTANCES[view.distance]))[shot.first : shot.end]
    film = film.flip(-1) if view.mirrored else film
    first = round(view.time * (len(film) - 1 - stride * (frames - 1)))
    # In steps from the middle of the clip; a picture that moves left is a window that moves right.
    dx, dy = DIRECTIONS[view.direction]
    speed = round(height * PANS[view.pan]) if view.pan else 0
    reach = speed * (frames - 1) / 2
    left = _place(view.x, film.shape[-1] - width, reach * abs(dx))
    top = _place(view.y, film.shape[-2] - height, reach * abs(dy))
    forward = view.playing == "forward"
    windows = []
    for frame in range(frames):
        along = speed * (frame - (frames - 1) / 2)
        x, y = int(left - dx * along), int(top - dy * along)
        number = first + stride * (frame if forward else frames - 1 - frame)
        windows.append(film[number, :, y : y + height, x : x + width])
    return torch.stack(windows).float() / 255


def _place(share: float, room: int, reach: float) -> float:
    """Return the window's place in the middle of the clip: at a share of its room, but `reach` from either edge.

    Raises ValueError if the film is too small.
    """
    if room < 2 * reach:
        raise ValueError("the window's path is longer than the film is wide or high")
    return reach + TOKEN * int(share * (room - 2 * reach) / TOKEN)


def draw_real_pair(rng: random.Random, frames: int, height: int, width: int) -> list[tuple[Tensor, str]]:
    """Draw a view twice, the second time backwards, as clips `[T, 3, H, W]` in 0...1 with captions."""
    view = draw_view(rng)
    return [(cut_out(each, frames, height, width), each.describe()) for each in (view, reverse_view(view))]
