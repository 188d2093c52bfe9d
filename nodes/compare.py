"""The node `Astraea Compare`."""

from __future__ import annotations

import math
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..engine.metrics import decibels, mean_squared_error, ssim, value_range
from ..errors import AstraeaError
from ..host.latents import preview_rgb
from ..host.progress import with_bar
from .checks import number
from .plots.comparison import MAX_FRAMES, draw_comparison
from .schema import field, node_schema

WHICH = "Connect either images_a and images_b, or latents_a and latents_b."
FPS, MAX_FPS = 12.0, 120.0
# PSNR in dB from which on a verdict holds, best first.
VERDICTS = (
    (40.0, "hard to tell apart"),
    (30.0, "the same video, details differ"),
    (25.0, "the same scene, moving differently"),
    (-math.inf, "another video"),
)


class AstraeaCompare(io.ComfyNode):
    """Measures the difference of two results."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaCompare",
            display_name="Astraea Compare",
            description="Measures how close an accelerated result is to the original, by PSNR, SSIM and side by side: "
            "two image batches or two latents.",
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
                field(
                    io.Float,
                    "fps",
                    default=FPS,
                    min=1.0,
                    max=MAX_FPS,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="Frames per second at which the comparison plays on the node.",
                ),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The verdict, PSNR and SSIM."),
                io.Image.Output(
                    "side_by_side",
                    display_name="side by side",
                    tooltip="The frames as the node plays them: the verdict, both clips, their difference. At most "
                    f"{MAX_FRAMES}: of longer clips every second one, or fewer.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images_a: Tensor | None = None,
        images_b: Tensor | None = None,
        latents_a: dict | None = None,
        latents_b: dict | None = None,
        fps: float = FPS,
    ) -> io.NodeOutput:
        fps = number("fps", fps, 1.0, MAX_FPS)
        _check_pair([value is not None for value in (images_a, images_b, latents_a, latents_b)])
        if images_a is not None and images_b is not None:
            text, view, count = _compare_images(_rgb(images_a), _rgb(images_b))
        else:
            assert latents_a is not None
            assert latents_b is not None
            text, view, count = _compare_latents(_video(latents_a), _video(latents_b))
        return io.NodeOutput(text, view, ui={"text": (text,), **_preview(view, fps * len(view) / count, cls)})


def _preview(view: Tensor, fps: float, node: type[io.ComfyNode]) -> dict[str, Any]:
    """Save the frames, as an animation where there are several, and return what shows it on the node."""
    if len(view) == 1:
        return ui.PreviewImage(view, cls=node).as_dict()
    saved = ui.ImageSaveHelper.save_animated_webp(
        view, "astraea_compare", io.FolderType.temp, node, fps, lossless=False, quality=90, method=2
    )
    return ui.PreviewVideo([saved]).as_dict()


def _rgb(images: Tensor) -> Tensor:
    """Return images `[B, H, W, 3]` of an IMAGE with or without alpha, or of grey. Raises AstraeaError."""
    _check_tensor(images, "images", 4, 4)
    return images[..., :3] if images.shape[-1] >= 3 else images[..., :1].expand(*images.shape[:3], 3)


def _video(latent: dict) -> Tensor:
    """Return the samples `[B, C, (T,) H, W]` of a LATENT. Raises AstraeaError."""
    _check_tensor(latent["samples"], "latents", 4, 5)
    return latent["samples"]


def _check_tensor(values: Any, what: str, min_dims: int, max_dims: int) -> None:
    if not isinstance(values, Tensor) or values.is_nested or not min_dims <= values.ndim <= max_dims:
        shape = " x ".join(map(str, values.shape)) if isinstance(values, Tensor) and not values.is_nested else "nested"
        raise AstraeaError(
            f"Astraea Compare compares pictures and videos; these {what} are neither (their shape is {shape}). Sound "
            "and other latents cannot be compared."
        )
    if not values.numel():
        raise AstraeaError(
            f"Astraea Compare got an empty batch: the {what} have the shape {' x '.join(map(str, values.shape))}."
        )


def _check_pair(present: list[bool]) -> None:
    if present not in ([True, True, False, False], [False, False, True, True]):
        raise AstraeaError(f"Astraea Compare needs exactly one pair. {WHICH}")


def _check_sizes(a: Tensor, b: Tensor, what: str) -> None:
    if a.shape != b.shape:
        raise AstraeaError(
            f"The two {what} differ in size ({' x '.join(map(str, a.shape))} and {' x '.join(map(str, b.shape))}). "
            "Compare results of the same width, height and length."
        )


def _compare_images(a: Tensor, b: Tensor) -> tuple[str, Tensor, int]:
    """Return the text, the frames that the node plays, and how many there would be if none were left out."""
    _check_sizes(a, b, "image batches")
    b = b.to(a)
    text, by_frame = _measure(a.movedim(-1, 1), b.movedim(-1, 1), 1.0, "image batch", "{}, peak 1")
    return text, _draw(_as_picture(a), _as_picture(b), text, by_frame), len(by_frame)


def _compare_latents(a: Tensor, b: Tensor) -> tuple[str, Tensor, int]:
    """Return the same as `_compare_images`, of latents `[B, C, (T,) H, W]`."""
    _check_sizes(a, b, "latents")
    a = a.float()  # fp16 cannot hold the range of large values
    b = b.to(a)
    frames_a, frames_b = (x.movedim(2, 1).flatten(0, 1) if x.ndim == 5 else x for x in (a, b))
    peak = value_range(a)
    text, by_frame = _measure(frames_a, frames_b, peak, "latents", f"latent {{}}, peak {peak:.2f}")
    return text, _draw(preview_rgb(_as_picture(a)), preview_rgb(_as_picture(b)), text, by_frame), len(by_frame)


def _measure(a: Tensor, b: Tensor, peak: float, what: str, over: str) -> tuple[str, list[float]]:
    """Return the text on frames `[B, C, H, W]`, and the PSNR of each in dB; NaN where there is none.

    over: what is said of the frames, with {} for their number.
    """
    if text := _not_finite(a, b, what):
        return text, [math.nan] * len(a)
    errors, similarities = [], []
    for first, second in with_bar(zip(a, b, strict=True), len(a)):  # a frame at a time: long clips take seconds
        errors.append(mean_squared_error(second, first))
        similarities.append(ssim(second[None], first[None], peak))
    over = over.format(f"{len(a)} frame{'s' * (len(a) > 1)}")
    noise, similarity = decibels(sum(errors) / len(errors), peak), sum(similarities) / len(similarities)
    return _text(noise, similarity, over), [decibels(error, peak) for error in errors]


def _draw(left: Tensor, right: Tensor, text: str, by_frame: list[float]) -> Tensor:
    verdict, _, detail = text.partition("\n")
    return draw_comparison(left, right, verdict, detail.partition("\n")[0], by_frame)


def _not_finite(a: Tensor, b: Tensor, what: str) -> str:
    """Return a message where values are NaN or infinite, as no distance is defined; "" where all are finite."""
    found = []
    for which, values in (("first", a), ("second", b)):
        bad = values.numel() - int(values.isfinite().sum())
        if bad:
            found.append(f"{bad} of {values.numel()} values of the {which} {what}")
    if not found:
        return ""
    return (
        f"not finite: {' and '.join(found)} are NaN or infinite, so there is no PSNR and no SSIM. Something before "
        "this node went wrong, often a model or VAE in fp16: try bf16 or fp32."
    )


def _as_picture(values: Tensor) -> Tensor:
    """Return the values with 0 for those that are not finite."""
    return values.nan_to_num(0.0, 0.0, 0.0)


def _text(noise: float, similarity: float, over: str) -> str:
    if math.isinf(noise):
        return f"identical\n{over}"
    verdict = next(words for least, words in VERDICTS if noise >= least)
    return (
        f"{noise:.1f} dB: {verdict}\n"
        f"PSNR {noise:.2f} dB, SSIM {similarity:.4f}, {over}\n"
        "Higher is closer: above 40 dB the difference is hard to see, around 30 dB details move, "
        "below 25 dB it is another video."
    )
