"""The nodes of the demo model: load it, give it a prompt, show its frames. Real models do not need them."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from torch import Tensor

from ..errors import AstraeaError
from ..host.demo_model import decode_latents, load_demo_model
from ..tiny.demo_model.words import GROUPS, PROMPTS, VOCABULARY
from ..tiny.words import context_for, split_words, unknown_words
from .checks import text as checked_text
from .schema import field, node_schema, refusal

MAX_WORDS = 96
KNOWN = "; ".join(", ".join(group) for group in GROUPS)


class AstraeaDemoModel(io.ComfyNode):
    """Loads the demo model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaDemoModel",
            display_name="Astraea Demo Model",
            description="Loads the small video model that comes with Astraea. It makes two-second clips of balloons "
            "and boats in landscapes on any CPU, to try Astraea without a download; for real videos load a real model.",
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The demo model; to Astraea Accelerate."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_demo_model())


class AstraeaDemoPrompt(io.ComfyNode):
    """Turns words into the demo model's conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaDemoPrompt",
            display_name="Astraea Demo Prompt",
            description="Prompt for the demo model that comes with Astraea. Real models use their text encoder.",
            inputs=[
                field(
                    io.String,
                    "text",
                    multiline=True,
                    default=PROMPTS[0],
                    tooltip=f"The demo model knows these words: {KNOWN}. Leave it empty for the negative prompt.",
                )
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", display_name="conditioning", tooltip="To the sampler; for the demo model only."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        return refusal(lambda: _check_length(text or ""))

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        _check_length(checked_text("text", text))
        unknown = unknown_words(text, VOCABULARY)
        if unknown:
            logging.warning(
                f"Astraea: the demo model was never shown the words {', '.join(unknown)}. It knows: {KNOWN}."
            )
        return io.NodeOutput([[context_for(text).unsqueeze(0), {}]])


def _check_length(text: str) -> None:
    count = len(split_words(text))
    if count > MAX_WORDS:
        raise AstraeaError(f"The demo prompt has {count} words; the demo model takes at most {MAX_WORDS}.")


class AstraeaDemoView(io.ComfyNode):
    """Turns the demo model's latents into frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaDemoView",
            display_name="Astraea Demo View",
            description="Frames from the latents of the demo model, twice as wide and high as the empty latent says. "
            "Only for that model: real models use VAE Decode.",
            inputs=[field(io.Latent, "samples", tooltip="The sampler's result with the demo model.")],
            outputs=[io.Image.Output("frames", display_name="frames", tooltip="The clip's frames.")],
        )

    @classmethod
    def execute(cls, samples: dict) -> io.NodeOutput:
        return io.NodeOutput(_frames(samples["samples"]))


def _frames(latents: Tensor) -> Tensor:
    """Decode latents `[B, 16, T, H, W]` of a LATENT to frames `[B·(4T − 3), 16H, 16W, 3]`. Raises AstraeaError."""
    if latents.ndim != 5 or latents.shape[1] != 16 or not latents.numel():
        raise AstraeaError(
            "Astraea Demo View shows latents of the demo model only (16 channels, video). "
            "For other models use VAE Decode."
        )
    return decode_latents(latents).flatten(0, 1).movedim(1, -1)
