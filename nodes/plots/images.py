"""Makes ComfyUI's IMAGE batches, `[B, H, W, 3]` in 0...1."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_batch(*pictures: Image.Image) -> Tensor:
    """Return Pillow pictures of equal size as a batch."""
    arrays = [np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0 for picture in pictures]
    return torch.from_numpy(np.stack(arrays))


def enlarge(frames: Tensor, factor: int) -> Tensor:
    """Enlarge frames `[B, H, W, 3]` by repeating every pixel, to view small latents."""
    return frames.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
