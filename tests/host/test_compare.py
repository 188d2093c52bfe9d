"""Astraea Compare: the verdict, what is shown, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from PIL import Image

from astraea.errors import AstraeaError
from astraea.nodes.compare import AstraeaCompare
from astraea.nodes.plots.comparison import MAX_FRAMES


def test_compare_tells_equal_from_close() -> None:
    images = torch.rand(2, 24, 24, 3, generator=torch.Generator().manual_seed(0))
    text, view = AstraeaCompare.execute(images_a=images, images_b=images).args
    assert text == "identical\n2 frames, peak 1"
    assert len(view) == 2
    latents = {"samples": torch.randn(1, 16, 3, 8, 8)}
    close = {"samples": latents["samples"] + 0.01}
    assert "\nPSNR " in AstraeaCompare.execute(latents_a=latents, latents_b=close).args[0]


@pytest.mark.parametrize(("error", "verdict"), [
    (0.001, "60.0 dB: hard to tell apart"),
    (0.02, "34.0 dB: the same video, details differ"),
    (0.05, "26.0 dB: the same scene, moving differently"),
    (0.3, "10.5 dB: another video"),
])  # fmt: skip
def test_compare_begins_with_a_verdict(error: float, verdict: str) -> None:
    images = torch.full((2, 24, 24, 3), 0.25)
    text, _ = AstraeaCompare.execute(images_a=images, images_b=images + error).args
    assert text.splitlines()[0] == verdict


def test_compare_shows_both_clips_their_difference_and_plays_them() -> None:
    dark, bright = torch.zeros(3, 240, 320, 3), torch.full((3, 240, 320, 3), 0.05)
    output = AstraeaCompare.execute(images_a=dark, images_b=bright)
    view = output.args[1]
    left, right, difference = (view[:, 200, 100, 0], view[:, 200, 500, 0], view[:, 480, 100, 0])
    assert (left == 0.0).all()
    assert right.tolist() == pytest.approx([0.05] * 3)
    assert difference.tolist() == pytest.approx([0.4] * 3)
    assert output.ui["animated"] == (True,)
    (file,) = output.ui["images"]
    assert Image.open(Path(folder_paths.get_temp_directory()) / file["filename"]).n_frames == 3
    (still,) = AstraeaCompare.execute(images_a=dark[:1], images_b=dark[:1]).ui["images"]
    assert still["filename"].endswith(".png")


def broken(values: torch.Tensor, value: float) -> torch.Tensor:
    values = values.clone()
    values.view(-1)[5] = value
    return values


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["images", "latents"])
def test_compare_tells_what_is_not_finite(kind: str, value: float) -> None:
    good = torch.rand(2, 24, 24, 3) if kind == "images" else torch.randn(1, 16, 3, 8, 8)
    bad = broken(good, value)
    what = "image batch" if kind == "images" else "latents"
    count = f"1 of {good.numel()} values of the"
    both = f"{count} first {what} and {count} second {what}"
    for pair, said in (
        ((bad, good), f"{count} first {what}"),
        ((good, bad), f"{count} second {what}"),
        ((bad, bad), both),
    ):
        inputs = [each if kind == "images" else {"samples": each} for each in pair]
        text, view = AstraeaCompare.execute(**{f"{kind}_a": inputs[0], f"{kind}_b": inputs[1]}).args
        assert text.startswith(f"not finite: {said} are NaN or infinite")
        assert view.isfinite().all()
        assert 0.0 <= float(view.min()) <= float(view.max()) <= 1.0


NO_PICTURES = {
    "no image": ("images", torch.rand(0, 24, 24, 3), "empty batch"),
    "images without pixels": ("images", torch.rand(2, 0, 24, 3), "empty batch"),
    "images without a batch": ("images", torch.rand(24, 24, 3), "their shape is 24 x 24 x 3"),
    "no latent": ("latents", torch.rand(0, 16, 3, 8, 8), "empty batch"),
    "latents of no frame": ("latents", torch.rand(1, 16, 0, 8, 8), "empty batch"),
    "latents of sound": ("latents", torch.rand(1, 64, 100), "Sound and other latents cannot be compared"),
    "latents of too many axes": ("latents", torch.rand(1, 1, 1, 1, 1, 1), "cannot be compared"),
    "nested latents": ("latents", SimpleNamespace(is_nested=True), "their shape is nested"),
}


@pytest.mark.parametrize(("kind", "values", "message"), NO_PICTURES.values(), ids=NO_PICTURES)
def test_compare_refuses_in_words_what_is_no_picture(kind: str, values: Any, message: str) -> None:
    given = values if kind == "images" else {"samples": values}
    with pytest.raises(AstraeaError, match=message):
        AstraeaCompare.execute(**{f"{kind}_a": given, f"{kind}_b": given})


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_compare_shows_images_of_any_channels(channels: int) -> None:
    images = torch.rand(2, 8, 8, channels)
    text, view = AstraeaCompare.execute(images_a=images, images_b=images).args
    assert text == "identical\n2 frames, peak 1"
    assert view.shape[0] == 2
    assert view.shape[-1] == 3


def test_compare_takes_large_values_in_half_precision() -> None:
    latents = {"samples": torch.tensor([-6e4, 6e4, 0.0, 1.0]).half().view(1, 1, 2, 2)}
    close = {"samples": latents["samples"] * 0.5}
    assert (
        AstraeaCompare.execute(latents_a=latents, latents_b=close).args[0].splitlines()[1].startswith("PSNR 15.05 dB")
    )


def test_of_a_long_clip_some_frames_are_drawn_in_the_same_time() -> None:
    images = torch.rand(2 * MAX_FRAMES + 1, 2, 2, 3)
    output = AstraeaCompare.execute(images_a=images, images_b=images, fps=30.0)
    assert output.args[0] == f"identical\n{2 * MAX_FRAMES + 1} frames, peak 1"
    (file,) = output.ui["images"]
    picture = Image.open(Path(folder_paths.get_temp_directory()) / file["filename"])
    assert picture.n_frames == len(output.args[1]) == (2 * MAX_FRAMES + 1 + 2) // 3
    picture.seek(1)
    picture.load()
    assert picture.info["duration"] == pytest.approx(3000 / 30, abs=1)


@pytest.mark.parametrize("shape", [(2, 1000, 8, 3), (2, 8, 1000, 3), (2, 1400, 600, 3), (2, 1, 1, 3)])
def test_frames_of_any_size_can_be_saved(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    _, view = AstraeaCompare.execute(images_a=images, images_b=images * 0.9).args
    assert max(view.shape[1:3]) < 2000


def test_measuring_a_long_clip_can_be_interrupted() -> None:
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        AstraeaCompare.execute(images_a=torch.rand(2, 8, 8, 3), images_b=torch.rand(2, 8, 8, 3))
