"""Between Pillow pictures and ComfyUI's IMAGE batches `[B, H, W, 3]` in 0...1."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GAP = 4  # pixels between pictures that stand side by side


def to_batch(*pictures: Image.Image) -> Tensor:
    """Pictures of one size as a batch."""
    arrays = [np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0 for picture in pictures]
    return torch.from_numpy(np.stack(arrays))


def enlarge(frames: Tensor, factor: int) -> Tensor:
    """Frames `[B, H, W, 3]` with every pixel repeated, so that small latents can be looked at."""
    return frames.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two batches of one size as one, with a thin white gap."""
    gap = torch.ones((*left.shape[:2], GAP, 3), dtype=left.dtype, device=left.device)
    return torch.cat([left, gap, right.to(left)], dim=2)
