"""A video diffusion transformer of a few small blocks, and how its blocks run for selected rows: for tests without
ComfyUI. It stands for no model in particular: other tokens may come before and after the video's, in any dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from astraea.engine.blocks.interface import Attend, BlockCall, TokenLayout
from astraea.engine.blocks.selection import Selection
from astraea.kernels import attend_reference

DIM, HEADS, CHANNELS = 16, 2, 4


class ToyBlock(nn.Module):
    """Self-attention and a feed-forward part. reason: why it cannot run for selected rows, or ""."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM, elementwise_affine=False)
        self.q, self.k, self.v, self.o = (nn.Linear(DIM, DIM) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))
        self.reason = ""

    def forward(self, x: Tensor, shift: Tensor, *, context: Tensor) -> Tensor:
        y = self.norm(x) + shift
        q, k, v = (part(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.feed(self.norm(x) + context)


class ToyRunner:
    in_place = False

    def entry(self, call: BlockCall) -> Tensor:
        return call.args[0]

    def exit(self, result: Any) -> Tensor:
        return result

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        return hidden

    def unsupported_reason(self, call: BlockCall) -> str:
        return call.block.reason

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        x, shift = self.entry(call), call.args[1]
        y = block.norm(x) + shift
        k, v = (part(y).unflatten(-1, (HEADS, -1)) for part in (block.k, block.v))
        q = block.q(selection.gather(y)).unflatten(-1, (HEADS, -1))
        mixed, lse = attend(q, k, v, need_lse=need_lse)
        before = selection.gather(x)
        rows = before + block.o(mixed.flatten(2))
        rows = rows + block.feed(block.norm(rows) + call.kwargs["context"])
        return rows - before, None if lse is None else lse.mean(1)


class ToyModel(nn.Module):
    """Denoised latents `[B, 4, T, H, W]` from noisy ones, within ±3. before, after: tokens around the video's."""

    def __init__(self, seed: int, blocks: int, before: int = 0, after: int = 0):
        super().__init__()
        self.before, self.after = before, after
        self.embed, self.head = nn.Linear(CHANNELS, DIM), nn.Linear(DIM, CHANNELS)
        self.blocks = nn.ModuleList(ToyBlock() for _ in range(blocks))
        self.others = nn.Parameter(torch.zeros(1, before + after, DIM))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.eval().requires_grad_(False)

    def layout(self, shape: tuple[int, ...]) -> TokenLayout:
        frames, height, width = shape[-3:]
        return TokenLayout(frames * height * width, self.before, self.after)

    def forward(
        self, x: Tensor, sigma: float, context: Tensor, before_block: Callable[[], None] = lambda: None
    ) -> Tensor:
        """context: one number per row, `[B]`, in place of a prompt."""
        dtype = self.embed.weight.dtype
        times = torch.tensor([sigma / (1.0 + sigma) * n for n in range(DIM)], dtype=torch.float32).sin()
        shift = times.to(dtype).view(1, 1, DIM).expand(x.shape[0], 1, DIM)
        words = (context.float().view(-1, 1, 1) * torch.arange(1, DIM + 1)).cos().to(dtype)
        video = self.embed((x.float() / (1.0 + sigma)).to(dtype).flatten(2).transpose(1, 2))
        others = self.others.expand(x.shape[0], -1, -1)
        hidden = torch.cat([others[:, : self.before], video, others[:, self.before :]], dim=1)
        for block in self.blocks:
            before_block()
            hidden = block(hidden, shift, context=words)
        video = hidden[:, self.before : hidden.shape[1] - self.after]
        told = 3.0 * self.head(video).float().tanh()
        return told.transpose(1, 2).reshape(x.shape).to(x.dtype)


def toy_attend(q: Tensor, k: Tensor, v: Tensor, *, need_lse: bool = False) -> tuple[Tensor, Tensor | None]:
    return attend_reference(q, k, v, need_lse=need_lse)
