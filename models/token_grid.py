"""The grid of tokens of a model that has no file here, by the names that the host's models give their patch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from ..engine.blocks.interface import TokenLayout


def guessed_layout(model: Any, shape: tuple[int, ...], conditions: Mapping[str, Any]) -> TokenLayout:
    """Return the video's tokens of a latent `[B, C, T, H, W]`, or of an image's `[B, C, H, W]`.

    Of streams that are packed into one latent, the first is the video's.
    """
    video = tuple((conditions.get("latent_shapes") or [shape])[0])
    sides = (1, *video[2:]) if len(video) == 4 else video[2:]
    if len(sides) != 3:
        return TokenLayout(video=prod(video[2:]))
    frames, height, width = (-(-side // step) for side, step in zip(sides, patch_of(model), strict=True))
    return TokenLayout(video=frames * height * width, grid=(frames, height, width))


def patch_of(model: Any) -> tuple[int, int, int]:
    """Return the latent's frames, rows and columns in a token, 1 for each that the model does not state."""
    patch = getattr(model, "patch_size", getattr(model, "patch_spatial", 1))
    if isinstance(patch, int):
        patch = (patch, patch)
    if not isinstance(patch, (tuple, list)) or len(patch) not in (2, 3) or not all(isinstance(n, int) for n in patch):
        return 1, 1, 1
    frames = getattr(model, "patch_size_t", getattr(model, "patch_temporal", 1))
    whole = (frames if isinstance(frames, int) else 1, *patch) if len(patch) == 2 else tuple(patch)
    return max(1, whole[0]), max(1, whole[1]), max(1, whole[2])
