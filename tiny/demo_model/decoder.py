"""Decodes the demo model's latents to frames: a small convolutional decoder, in place of a video VAE. Torch only.

Latents hold 16×16 pixels of four frames each, but for the first, which holds one frame, as latents of Wan do. Pictures
have twice the width and height that ComfyUI shows for latents of eight pixels. The decoder reads 13 of the 16
dimensions: the others repeat the mean colour where ComfyUI's linear preview of Wan latents looks for it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

DECODER = Path(__file__).parent / "astraea_demo_decoder_fp16.safetensors"
CHANNELS, CODES, FRAMES_PER_LATENT, PIXELS_PER_LATENT = 16, 13, 4, 16
WIDTHS = (128, 64, 32, 24)  # channels at 1/16, 1/8, 1/4 and 1/2 of the picture's size


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions over each frame of `[N, C, H, W]`."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class Norm(nn.Module):
    """Normalises the channels of each place of `[N, C, H, W]`, independently of the picture's size."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-5) * self.gain


class TimeMix(nn.Module):
    """A convolution over time, three latent frames wide, at every place of `[B, C, T, H, W]`."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.silu(x))


class Stem(nn.Module):
    """Reads codes `[B, 13, T, H, W]` into features `[B·T, C, H, W]` that know the frames before and after."""

    def __init__(self, width: int):
        super().__init__()
        self.enter = nn.Conv2d(CODES, width, 3, padding=1)
        self.mixes = nn.ModuleList(TimeMix(width) for _ in range(2))
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(2))
        self.norm = Norm(width)

    def forward(self, codes: Tensor) -> Tensor:
        batch, _, time, _, _ = codes.shape
        x = self.enter(codes.transpose(1, 2).flatten(0, 1))
        for mix, block in zip(self.mixes, self.blocks, strict=True):
            x = x.unflatten(0, (batch, time)).transpose(1, 2)
            x = block(mix(x).transpose(1, 2).flatten(0, 1))
        return self.norm(x)


def enlarging(width: int, exit_width: int) -> list[nn.Module]:
    """Return layers that double height and width."""
    return [nn.Conv2d(width, 4 * exit_width, 3, padding=1), nn.PixelShuffle(2)]


class Decoder(nn.Module):
    """Decodes codes `[B, 13, T, H, W]` to frames `[B, 4T − 3, 3, 16H, 16W]` in about 0...1.

    A smooth picture of mean colours, and the details that the layers of `enlarge` add.
    """

    codes_map: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        wide, half, quarter, fine = WIDTHS
        self.register_buffer("codes_map", torch.zeros(CODES, CHANNELS))
        self.register_buffer("mean", torch.zeros(CODES))
        self.register_buffer("std", torch.ones(CODES))
        self.stem = Stem(wide)
        self.to_colours = nn.Conv2d(wide, FRAMES_PER_LATENT * 3, 1)
        self.colours_of_codes = nn.Conv2d(CODES, FRAMES_PER_LATENT * 3, 1)
        self.to_frames = nn.Conv2d(wide, FRAMES_PER_LATENT * half, 1)
        self.enlarge = nn.Sequential(
            *enlarging(half, half),
            ResidualBlock(half),
            *enlarging(half, quarter),
            ResidualBlock(quarter),
            *enlarging(quarter, fine),
            ResidualBlock(fine),
            nn.SiLU(),
            *enlarging(fine, 3),
        )

    def codes_of(self, latents: Tensor) -> Tensor:
        """Return the codes that the model's latents `[B, 16, T, H, W]` hold."""
        codes = torch.einsum("kc,bcthw->bkthw", self.codes_map, latents)
        return codes * self.std.view(-1, 1, 1, 1) + self.mean.view(-1, 1, 1, 1)

    def forward(self, codes: Tensor) -> Tensor:
        batch = len(codes)
        x = self.stem(codes)
        colours = self.to_colours(x) + self.colours_of_codes(codes.transpose(1, 2).flatten(0, 1))
        smooth = F.interpolate(
            self._frames(colours, batch), scale_factor=PIXELS_PER_LATENT, mode="bilinear", align_corners=False
        )
        details = self.enlarge(self._frames(self.to_frames(x), batch))
        return (smooth + details).unflatten(0, (batch, -1))

    @staticmethod
    def _frames(x: Tensor, batch: int) -> Tensor:
        """Split the channels of latent frames `[B·T, 4C, H, W]` into frames `[B·(4T − 3), C, H, W]`."""
        frames = x.reshape(batch, -1, x.shape[1] // FRAMES_PER_LATENT, *x.shape[2:])
        return frames[:, FRAMES_PER_LATENT - 1 :].flatten(0, 1)


def load_decoder() -> Decoder:
    """Load the decoder that ships with the demo model, in fp32."""
    decoder = Decoder()
    decoder.load_state_dict({name: tensor.float() for name, tensor in load_file(DECODER).items()})
    return decoder.eval().requires_grad_(False)


@torch.inference_mode()
def decode(latents: Tensor) -> Tensor:
    """Decode latents `[B, 16, T, H, W]` of the demo model to frames `[B, 4T − 3, 3, 16H, 16W]` in 0...1."""
    decoder = load_decoder()
    return decoder(decoder.codes_of(latents.float().cpu())).clamp(0, 1)
