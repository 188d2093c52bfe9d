"""The nodes of the embedded demo model: load it, give it a prompt, show its frames. Real models do not need them."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from torch import Tensor

from ..errors import AstraeaError
from ..host.demo_model import load_demo_model
from ..host.latents import model_space
from ..tiny.codec import decode
from ..tiny.words import (
    COLOURS,
    CONNECTIVES,
    DIRECTIONS,
    MANNERS,
    SHAPES,
    SIZES,
    context_for,
    split_words,
    unknown_words,
)
from .checks import text as checked_text
from .checks import whole_number
from .plots.images import enlarge
from .schema import field, node_schema, refusal

MAX_WORDS, MAX_SCALE = 96, 32
VOCABULARY = "; ".join(", ".join(words) for words in (SIZES, COLOURS, SHAPES, MANNERS, DIRECTIONS, CONNECTIVES))


class AstraeaDemoModel(io.ComfyNode):
    """Loads the tiny model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaDemoModel",
            display_name="Astraea Demo Model",
            description="Loads the tiny video model that comes with Astraea. It makes small clips of simple shapes on "
            "any CPU, to try Astraea without a download; for real videos load a real model.",
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The tiny model; to Astraea Accelerate."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_demo_model())


class AstraeaDemoPrompt(io.ComfyNode):
    """Turns words into the tiny model's conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaDemoPrompt",
            display_name="Astraea Demo Prompt",
            description="Prompt for the tiny demo model that comes with Astraea. Real models use their text encoder.",
            inputs=[
                field(
                    io.String,
                    "text",
                    multiline=True,
                    default="a big yellow square moving up over a purple ground",
                    tooltip=f"The tiny model knows these words: {VOCABULARY}. Leave it empty for the negative prompt.",
                )
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="To the sampler; for the tiny model only."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        return refusal(lambda: _check_length(text or ""))

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        _check_length(checked_text("text", text))
        unknown = unknown_words(text)
        if unknown:
            logging.warning(
                f"Astraea: the tiny demo model was never shown the words {', '.join(unknown)}. It knows: {VOCABULARY}."
            )
        return io.NodeOutput([[context_for(text).unsqueeze(0), {}]])


def _check_length(text: str) -> None:
    count = len(split_words(text))
    if count > MAX_WORDS:
        raise AstraeaError(f"The demo prompt has {count} words; the tiny model takes at most {MAX_WORDS}.")


class AstraeaDemoView(io.ComfyNode):
    """Turns the tiny model's latents into frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaDemoView",
            display_name="Astraea Demo View",
            description="Frames from the latents of the tiny demo model. Only for that model: real models use VAE "
            "Decode.",
            inputs=[
                field(io.Latent, "samples", tooltip="The sampler's result with the tiny demo model."),
                field(
                    io.Int,
                    "scale",
                    default=8,
                    min=1,
                    max=MAX_SCALE,
                    tooltip="Every pixel becomes a square of this size; the clips are only 32 pixels wide.",
                ),
            ],
            outputs=[io.Image.Output("frames", display_name="frames", tooltip="The clip's frames.")],
        )

    @classmethod
    def execute(cls, samples: dict, scale: int) -> io.NodeOutput:
        factor = whole_number("scale", scale, 1, MAX_SCALE)
        return io.NodeOutput(enlarge(_frames(samples["samples"]), factor))


def _frames(latents: Tensor) -> Tensor:
    """Decode latents `[B, 16, T, H, W]` of a LATENT to frames `[B·T, 2H, 2W, 3]`. Raises AstraeaError."""
    if latents.ndim != 5 or latents.shape[1] != 16:
        raise AstraeaError(
            "Astraea Demo View shows latents of the tiny demo model only (16 channels, video). "
            "For other models use VAE Decode."
        )
    return decode(model_space(latents.float())).flatten(0, 1).movedim(1, -1).cpu()
