"""Small random models of every kind that ComfyUI samples, by name."""

from __future__ import annotations

from .base import NotOnThisHost, Sampled, ZooModel, sample
from .flux import FLUXES
from .image import IMAGES
from .unet import UNETS
from .video import VIDEO
from .wan import WAN

MODELS: dict[str, ZooModel] = {
    entry.name: entry
    for entry in sorted([*WAN, *VIDEO, *UNETS, *FLUXES, *IMAGES], key=lambda entry: (entry.kind, entry.name))
}
