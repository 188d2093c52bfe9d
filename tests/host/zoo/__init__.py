"""Small random models of every kind that ComfyUI samples, by name."""

from __future__ import annotations

from .audio import AUDIO
from .base import NotOnThisHost, Sampled, ZooModel, sample, weights_in
from .flux import FLUXES
from .image import IMAGES
from .shapes import SHAPES
from .unet import UNETS
from .video import VIDEO
from .wan import WAN

ENTRIES = sorted(
    [*WAN, *VIDEO, *UNETS, *FLUXES, *IMAGES, *AUDIO, *SHAPES],
    key=lambda entry: (entry.kind, entry.name),
)
MODELS: dict[str, ZooModel] = {entry.name: entry for entry in ENTRIES}
