"""The embedded model as a MODEL, loaded by its path: none of the user's model folders lists it."""

from __future__ import annotations

from typing import Any

import comfy.sd

from ..errors import AstraeaError
from ..tiny.shipped import CHECKPOINT


def load_demo_model() -> Any:
    """Load the MODEL as ComfyUI's Load Diffusion Model does. Raises AstraeaError if its file is missing."""
    if not CHECKPOINT.is_file():
        raise AstraeaError(f"The demo model's file '{CHECKPOINT}' is missing: install Astraea again.")
    return comfy.sd.load_diffusion_model(str(CHECKPOINT))
