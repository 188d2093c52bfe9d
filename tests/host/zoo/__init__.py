"""Small random models of every kind that ComfyUI samples, by name."""

from __future__ import annotations

from .base import NotOnThisHost, Sampled, ZooModel, sample, weights_in
from .cosmos import COSMOS_PREDICT2
from .unet import UNETS
from .video import VIDEO
from .wan import WAN

MODELS: dict[str, ZooModel] = {
    entry.name: entry
    for entry in sorted([*WAN, *VIDEO, *COSMOS_PREDICT2, *UNETS], key=lambda entry: (entry.kind, entry.name))
}
