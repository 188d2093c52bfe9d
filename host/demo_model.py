"""The demo model as a MODEL, loaded by its path: none of the user's model folders lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
from torch import Tensor

from ..errors import AstraeaError
from ..tiny.demo_model.decoder import DECODER, decode
from ..tiny.shipped import CHECKPOINT
from .latents import model_space


def load_demo_model() -> Any:
    """Load the MODEL as ComfyUI's Load Diffusion Model does. Raises AstraeaError if its file is missing."""
    _check_file(CHECKPOINT)
    return comfy.sd.load_diffusion_model(str(CHECKPOINT))


def decode_latents(samples: Tensor) -> Tensor:
    """Decode samples `[B, 16, T, H, W]` of a LATENT to frames `[B, 4T − 3, 3, 16H, 16W]` in 0...1, on the CPU.

    Raises AstraeaError if the decoder's file is missing.
    """
    _check_file(DECODER)
    return decode(model_space(samples.float()))


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise AstraeaError(f"The demo model's file '{file}' is missing: install Astraea again.")
