"""The demo's replacement of a video VAE: a fixed linear map between 2×2 RGB pixels and 16 latent channels.

The mean colour of a cell is placed where the linear preview of Wan 2.1 latents reads it, and again, with a higher gain,
in the preview's null space, together with the detail. The gains bring the channels near unit variance, as a real VAE
does: samplers then decide the content at the noise levels where they spend their steps. Torch only.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The published linear preview of Wan 2.1 latents: rgb = latent · PREVIEW + PREVIEW_BIAS, rgb in −1...1.
PREVIEW = torch.tensor(
    [
        [-0.1299, 0.0671, 0.3568, 0.0372, 0.0313, 0.0296, -0.3477, 0.0166]
        + [-0.0412, -0.1293, 0.0680, 0.0032, -0.1251, 0.0060, 0.3477, 0.1984],
        [-0.1692, 0.0406, 0.2548, 0.2344, 0.0189, -0.0956, -0.4059, 0.1902]
        + [0.0267, 0.0740, 0.3019, 0.0581, 0.0927, -0.0633, 0.2275, 0.0913],
        [0.2932, 0.0442, 0.1747, 0.1420, -0.0328, -0.0665, -0.2925, 0.1975]
        + [-0.1364, 0.1636, 0.1128, 0.0639, 0.1699, 0.0005, 0.2950, 0.1861],
    ]
).T
PREVIEW_BIAS = torch.tensor([-0.1835, -0.0868, -0.3360])
COLOUR_GAIN, DETAIL_GAIN = 3.0, 4.0
CHANNELS = 16


def _basis() -> tuple[Tensor, Tensor]:
    """Return the map of mean colours `[3, 16]` and that of details `[9, 16]`, with mutually orthogonal rows."""
    preview_map = torch.linalg.pinv(PREVIEW.double())
    # A QR decomposition is unique up to signs: with fixed signs every machine makes the same latents.
    q, r = torch.linalg.qr(torch.cat([PREVIEW, torch.eye(16)[:, :13]], dim=1).double())
    unseen = (q * r.diagonal().sign()).T[3:15]
    return (preview_map + COLOUR_GAIN * unseen[9:]).float(), (DETAIL_GAIN * unseen[:9]).float()


def _haar(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Split `[..., 3, H, W]` into means `[..., 3, H/2, W/2]` and three Haar details `[..., 9, H/2, W/2]`."""
    a, b = pixels[..., ::2, ::2], pixels[..., ::2, 1::2]
    c, d = pixels[..., 1::2, ::2], pixels[..., 1::2, 1::2]
    details = [a - b + c - d, a + b - c - d, a - b - c + d]
    return (a + b + c + d) / 4, torch.cat(details, dim=-3) / 4


def encode(clip: Tensor) -> Tensor:
    """Encode RGB `[B, T, 3, H, W]` in 0...1 to latents `[B, 16, T, H/2, W/2]`."""
    colour_map, detail_map = (m.to(clip) for m in _basis())
    mean, detail = _haar(clip * 2 - 1)
    mean = mean - PREVIEW_BIAS.to(clip)[:, None, None]
    latents = torch.einsum("btchw,cl->blthw", mean, colour_map)
    return latents + torch.einsum("btchw,cl->blthw", detail, detail_map)


def decode(latents: Tensor) -> Tensor:
    """Decode latents `[B, 16, T, H, W]` to RGB `[B, T, 3, 2H, 2W]`, clipped to 0...1."""
    colours, details = (torch.linalg.pinv(m).to(latents) for m in _basis())
    mean = torch.einsum("blthw,lc->btchw", latents, colours) + PREVIEW_BIAS.to(latents)[:, None, None]
    x, y, xy = torch.einsum("blthw,lc->btchw", latents, details).chunk(3, dim=2)
    top = torch.stack([mean + x + y + xy, mean - x + y - xy], dim=-1).flatten(-2)
    bottom = torch.stack([mean + x - y - xy, mean - x - y + xy], dim=-1).flatten(-2)
    pixels = torch.stack([top, bottom], dim=-2).flatten(-3, -2)
    return (pixels / 2 + 0.5).clamp(0, 1)
