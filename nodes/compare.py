"""The node `Astraea Compare`."""

from __future__ import annotations

import math
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..engine.quality import psnr, ssim, value_range
from ..errors import AstraeaError
from ..host.latents import preview_rgb
from .images import enlarge, side_by_side
from .schema import NOT_LINKED, field, node_schema, refusal

WHICH = "Connect either images_a and images_b, or latents_a and latents_b."
SMALLEST_VIEW = 256  # pixels; latents are enlarged to about this height


class AstraeaCompare(io.ComfyNode):
    """Measures how close two results are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaCompare",
            display_name="Astraea Compare",
            description="How close an accelerated result is to the original: PSNR, SSIM and a side-by-side view of two "
            "image batches or two latents.",
            is_output_node=True,
            search_aliases=["psnr", "ssim", "difference", "quality"],
            inputs=[
                field(io.Image, "images_a", optional=True, tooltip="The original frames, the reference."),
                field(io.Image, "images_b", optional=True, tooltip="The frames to compare with it."),
                field(
                    io.Latent,
                    "latents_a",
                    optional=True,
                    tooltip="The original latents, the reference. PSNR's peak is the range of their values.",
                ),
                field(io.Latent, "latents_b", optional=True, tooltip="The latents to compare with it."),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="PSNR and SSIM, and how to read them."),
                io.Image.Output("side_by_side", display_name="side by side", tooltip="First left, second right."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        images_a: Any = NOT_LINKED,
        images_b: Any = NOT_LINKED,
        latents_a: Any = NOT_LINKED,
        latents_b: Any = NOT_LINKED,
    ) -> bool | str:
        linked = [value is not NOT_LINKED for value in (images_a, images_b, latents_a, latents_b)]
        return refusal(lambda: _check_pair(linked))

    @classmethod
    def execute(
        cls,
        images_a: Tensor | None = None,
        images_b: Tensor | None = None,
        latents_a: dict | None = None,
        latents_b: dict | None = None,
    ) -> io.NodeOutput:
        _check_pair([value is not None for value in (images_a, images_b, latents_a, latents_b)])
        if images_a is not None and images_b is not None:
            text, view = _compare_images(images_a[..., :3], images_b[..., :3])
        else:
            assert latents_a is not None
            assert latents_b is not None
            text, view = _compare_latents(latents_a["samples"], latents_b["samples"])
        return io.NodeOutput(text, view, ui={"text": (text,), **ui.PreviewImage(view, cls=cls).as_dict()})


def _check_pair(present: list[bool]) -> None:
    if present not in ([True, True, False, False], [False, False, True, True]):
        raise AstraeaError(f"Astraea Compare needs exactly one pair. {WHICH}")


def _check_sizes(a: Tensor, b: Tensor, what: str) -> None:
    if a.shape != b.shape:
        raise AstraeaError(
            f"The two {what} differ in size ({' x '.join(map(str, a.shape))} and {' x '.join(map(str, b.shape))}). "
            "Compare results of the same width, height and length."
        )


def _compare_images(a: Tensor, b: Tensor) -> tuple[str, Tensor]:
    _check_sizes(a, b, "image batches")
    b = b.to(a)
    likeness = ssim(b.movedim(-1, 1), a.movedim(-1, 1), 1.0)
    return _text(psnr(b, a, 1.0), likeness, f"{len(a)} frames, peak 1"), side_by_side(a, b)


def _compare_latents(a: Tensor, b: Tensor) -> tuple[str, Tensor]:
    _check_sizes(a, b, "latents")
    b = b.to(a)
    peak = value_range(a)
    frames_a, frames_b = (x.movedim(2, 1).flatten(0, 1) if x.ndim == 5 else x for x in (a, b))
    text = _text(psnr(b, a, peak), ssim(frames_b, frames_a, peak), f"{len(frames_a)} latent frames, peak {peak:.2f}")
    left, right = preview_rgb(a), preview_rgb(b)
    factor = max(1, round(SMALLEST_VIEW / left.shape[1]))
    return text, side_by_side(enlarge(left, factor), enlarge(right, factor))


def _text(noise: float, likeness: float, over: str) -> str:
    if math.isinf(noise):
        return f"Identical ({over})."
    return (
        f"PSNR {noise:.2f} dB, SSIM {likeness:.4f} ({over}).\n"
        "Higher is closer: above 40 dB the difference is hard to see, around 30 dB details move, "
        "below 25 dB it is another video."
    )
