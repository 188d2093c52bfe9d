"""A small video diffusion transformer in Wan 2.1 text-to-video format, in plain torch.

`training/train.py` trains it, the demo runs it without ComfyUI, and ComfyUI loads its state dict as a Wan 2.1
checkpoint. Architecture: Wan technical report (arXiv 2503.20314).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

PATCH = (1, 2, 2)
FREQUENCY_DIM = 256
TEXT_DIM = 4096
LATENT_CHANNELS = 16
HEAD_DIM = 128


@dataclass(frozen=True)
class ModelConfig:
    """Sizes that the Wan 2.1 format does not fix. `dim` is a multiple of 128, the fixed head size."""

    dim: int = 128
    feed_forward: int = 512
    layers: int = 8

    @property
    def heads(self) -> int:
        return self.dim // HEAD_DIM


def timestep_frequencies(dim: int, device: torch.device | None = None) -> Tensor:
    """Return the radians per timestep `[dim / 2]` of the waves in `timestep_embedding`, the fastest first."""
    half = dim // 2
    return torch.exp(-math.log(10000.0) / half * torch.arange(half, device=device))


def timestep_embedding(timestep: Tensor, dim: int) -> Tensor:
    """Compute cosine and sine features `[B, dim]` of timesteps `[B]` in 0...1000."""
    angles = timestep.float()[:, None] * timestep_frequencies(dim, timestep.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_table(frames: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Compute rotation matrices `[1, N, 1, 64, 2, 2]` for a grid of tokens in t, h, w order."""
    spatial = 2 * (HEAD_DIM // 6)
    axes = (HEAD_DIM - 2 * spatial, spatial, spatial)
    grid = torch.meshgrid(*(torch.arange(n, device=device) for n in (frames, height, width)), indexing="ij")
    angles = []
    for positions, axis_dim in zip(grid, axes, strict=True):
        exponents = torch.arange(0, axis_dim, 2, dtype=torch.float64, device=device) / axis_dim
        angles.append(positions.reshape(-1, 1).double() / (10000.0**exponents))
    angle = torch.cat(angles, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return matrix.float()[None, :, None]


def rotate(x: Tensor, freqs: Tensor) -> Tensor:
    """Apply rotary positions to `x [B, N, H, D]`; adjacent channels form the rotated pairs."""
    pairs = x.float().unflatten(-1, (-1, 2)).unsqueeze(-2)
    return (freqs.to(x.device) * pairs).sum(-1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Self- or cross-attention with RMS-normalised queries and keys."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q = nn.RMSNorm(dim, eps=1e-6)
        self.norm_k = nn.RMSNorm(dim, eps=1e-6)
        self.product: Callable[[Tensor, Tensor, Tensor], Tensor] = F.scaled_dot_product_attention

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.view(*t.shape[:2], self.num_heads, -1).transpose(1, 2) for t in (q, k, v))
        return self.product(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(Attention):
    def forward(self, x: Tensor, freqs: Tensor) -> Tensor:
        heads = (self.num_heads, self.head_dim)
        q = rotate(self.norm_q(self.q(x)).unflatten(-1, heads), freqs).flatten(2)
        k = rotate(self.norm_k(self.k(x)).unflatten(-1, heads), freqs).flatten(2)
        return self.o(self.attend(q, k, self.v(x)))


class CrossAttention(Attention):
    def forward(self, x: Tensor, context: Tensor, **_: object) -> Tensor:
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        return self.o(self.attend(q, k, v))


class Block(nn.Module):
    """One transformer block; `e [B, 1, 6, dim]` modulates both residual branches."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.dim
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.self_attn = SelfAttention(dim, config.heads)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = CrossAttention(dim, config.heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.feed_forward), nn.GELU(approximate="tanh"), nn.Linear(config.feed_forward, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: Tensor,
        e: Tensor,
        freqs: Tensor,
        context: Tensor,
        context_img_len: int | None = None,
        transformer_options: dict | None = None,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.unsqueeze(0) + e).unbind(2)
        x = x + gate1 * self.self_attn(self.norm1(x) * (1 + scale1) + shift1, freqs)
        x = x + self.cross_attn(self.norm3(x), context)
        return x + gate2 * self.ffn(self.norm2(x) * (1 + scale2) + shift2)


class Head(nn.Module):
    def __init__(self, dim: int, out_channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(dim, out_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation + e[:, None]).chunk(2, dim=1)
        return self.head(self.norm(x) * (1 + scale) + shift)


class TinyWan(nn.Module):
    """Predicts the flow `noise − clip` of a noisy latent clip."""

    def __init__(self, config: ModelConfig | None = None):
        super().__init__()
        config = config or ModelConfig()
        dim = config.dim
        self.config = config
        self.patch_embedding = nn.Conv3d(LATENT_CHANNELS, dim, kernel_size=PATCH, stride=PATCH)
        self.text_embedding = nn.Sequential(nn.Linear(TEXT_DIM, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(FREQUENCY_DIM, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(dim, LATENT_CHANNELS * math.prod(PATCH))
        self.initialise()

    def initialise(self) -> None:
        """Set Xavier weights, small time and text embeddings, and a head of zeros, as Wan's training does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for embedding in (self.text_embedding, self.time_embedding):
            for layer in embedding:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """Predict the flow of latents `[B, 16, T, H, W]`, H and W even.

        timestep: `[B]` in 0...1000; context: `[B, L, 4096]`.
        """
        batch, _, frames, height, width = x.shape
        hidden = self.patch_embedding(x).flatten(2).transpose(1, 2)
        e = self.time_embedding(timestep_embedding(timestep, FREQUENCY_DIM).to(x.dtype))
        modulation = self.time_projection(e).view(batch, 1, 6, -1)
        context = self.text_embedding(context)
        freqs = rotary_table(frames, height // 2, width // 2, x.device)
        for block in self.blocks:
            hidden = block(hidden, e=modulation, freqs=freqs, context=context)
        patches = self.head(hidden, e).view(batch, frames, height // 2, width // 2, *PATCH, LATENT_CHANNELS)
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(x.shape)
