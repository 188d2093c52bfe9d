"""Tokens of a Wan call, in the order of its blocks' rows. T, H, W: frames, rows, columns of a latent in whole patches.

    WanModel      reference picture (where it has a `ref_conv`) | video | appended frames | Bernini's clips and pictures
    SCAIL, 2      reference frames | video | appended frames | poses, at half the size
    HuMo          video | appended frames | reference picture
    S2V           video | appended frames | reference picture | 73 latest frames, the older the coarser
    all others    video | appended frames

Appended frames, `time_dim_concat`, are Phantom's subjects. Animate and VACE keep their reference among the video's own
frames. What the host adds to tokens between blocks (speech, music, faces, control) changes no count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ..engine.blocks.interface import TokenLayout, class_name

# Models are the host's and known by their attributes only, hence Any.

Conditions = Mapping[str, Any]
PICTURES = ("clip_fea", "clip_fea_ref")  # as an image encoder saw them, `[B, tokens, channels]`


@dataclass(frozen=True)
class WanLayout(TokenLayout):
    """A layout that also counts the tokens of one video frame, and those of pictures in the blocks' context."""

    frame: int = 1
    pictures: int = 0


def layout(model: Any, shape: tuple[int, ...], conditions: Conditions) -> WanLayout:
    """Return the layout of a call from its latent `[.., T, H, W]` and its conditions, by the host's names."""
    patch = tuple(model.patch_size)
    frames, height, width = grid(patch, shape)
    frame = height * width
    appended = conditions.get("time_dim_concat")
    after = 0 if appended is None else appended.shape[2] * frame
    before, behind = VARIANTS.get(class_name(model), _wan)(model, patch, conditions)
    pictures = sum(seen.shape[-2] for seen in map(conditions.get, PICTURES) if seen is not None)
    return WanLayout(
        video=frames * frame,
        prefix=before,
        suffix=after + behind,
        grid=(frames, height, width),
        frame=frame,
        pictures=pictures,
    )


def grid(patch: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the tokens along t, h, w of a latent `[.., T, H, W]`; the host pads to whole patches."""
    frames, height, width = (-(-size // step) for size, step in zip(shape[-3:], patch, strict=True))
    return frames, height, width


def _tokens(patch: tuple[int, ...], latent: Any) -> int:
    """Return the tokens of a latent `[B, C, T, H, W]`, or `[B, C, H, W]` for one frame; 0 for None."""
    if latent is None:
        return 0
    shape = tuple(latent.shape)
    return prod(grid(patch, shape if len(shape) > 4 else (*shape[:2], 1, *shape[2:])))


def _wan(model: Any, patch: tuple[int, ...], conditions: Conditions) -> tuple[int, int]:
    """Return the tokens before the video, and those behind it and the appended frames."""
    reference, before = conditions.get("reference_latent"), 0
    if reference is not None and getattr(model, "ref_conv", None) is not None:
        before = (reference.shape[-2] // patch[1]) * (reference.shape[-1] // patch[2])
    return before, sum(_tokens(patch, latent) for latent in conditions.get("context_latents") or ())


def _scail(model: Any, patch: tuple[int, ...], conditions: Conditions) -> tuple[int, int]:
    return _tokens(patch, conditions.get("reference_latent")), _tokens(patch, conditions.get("pose_latents"))


def _humo(model: Any, patch: tuple[int, ...], conditions: Conditions) -> tuple[int, int]:
    return 0, _tokens(patch, conditions.get("reference_latent"))


def _s2v(model: Any, patch: tuple[int, ...], conditions: Conditions) -> tuple[int, int]:
    behind, motion = _tokens(patch, conditions.get("reference_latent")), conditions.get("reference_motion")
    if motion is not None:
        packer = model.frame_packer
        layers = (packer.proj, packer.proj_2x, packer.proj_4x)
        for frames, layer in zip(packer.zip_frame_buckets, layers, strict=True):
            sizes = zip((frames, *motion.shape[-2:]), layer.kernel_size, strict=True)
            behind += prod(size // step for size, step in sizes)
    return 0, behind


VARIANTS: dict[str, Callable[[Any, tuple[int, ...], Conditions], tuple[int, int]]] = {
    "SCAILWanModel": _scail,
    "SCAIL2WanModel": _scail,
    "HumoWanModel": _humo,
    "WanModel_S2V": _s2v,
}
