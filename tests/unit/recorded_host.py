"""Models as the newest ComfyUIs run them: on one sequence in a recorded section, or with blocks that become graphs.

Written from how they behave: a block changes the sequence in place; a graph is recorded at a block's second call and
replayed afterwards, without calling the block.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from allocation_recorder import AllocationRecorder
from torch import Tensor, nn
from torch.nn import functional

from astraea.engine.blocks.interface import Attend, BlockCall
from astraea.engine.blocks.selection import Selection
from astraea.models.rotary import rotate, selected_positions

DIM, HEADS, TEXT = 16, 2, 5


class PackedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, rope_freqs: Tensor, transformer_options: dict) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in self.qkv(x)[None].chunk(3, dim=-1))
        q, k = rotate(q, rope_freqs), rotate(k, rope_freqs)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return self.o(functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1))


class PackedBlock(nn.Module):
    """A block on one sequence `[S, dim]` without a batch, text first, which it changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM, elementwise_affine=False)
        self.attn = PackedAttention()
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))
        self.adaln = nn.Linear(DIM, 2 * DIM)

    def forward(
        self,
        x: Tensor,
        t_emb: Tensor,
        mod_segments: list[tuple[int, int, int]],
        rope_freqs: Tensor,
        transformer_options: dict[str, Any] = {},  # noqa: B006 as the host's
        attention: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        shift, gate = self.adaln(t_emb).chunk(2, dim=-1)
        attend = attention or self.attn
        mixed = attend(self.norm(x) + shift, rope_freqs=rope_freqs, transformer_options=transformer_options)
        for begin, end, row in mod_segments:
            x[begin:end].addcmul_(mixed[begin:end], gate[row])
        fed = self.mlp(self.norm(x) + shift)
        for begin, end, row in mod_segments:
            x[begin:end].addcmul_(fed[begin:end], gate[row])
        return x


class PackedRunner:
    """Runs a `PackedBlock` for selected tokens."""

    in_place = True

    def entry(self, call: BlockCall) -> Tensor:
        return call.args[0][None]

    def exit(self, result: Any) -> Tensor:
        return result[None]

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        return hidden[0]

    def unsupported_reason(self, call: BlockCall) -> str:
        return "another node passes it an attention" if call.kwargs.get("attention") is not None else ""

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        (_, t_emb, (*_, (_, _, row)), freqs), x = call.args, self.entry(call)
        shift, gate = block.adaln(t_emb).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in block.attn.qkv(block.norm(x) + shift).chunk(3, dim=-1))
        q = rotate(selection.gather(q.flatten(2)).unflatten(-1, (HEADS, -1)), selected_positions(freqs, selection))
        mixed, lse = attend(q, rotate(k, freqs), v, need_lse=need_lse)
        before = selection.gather(x)
        rows = before.addcmul(block.attn.o(mixed.flatten(2)), gate[row])
        rows = rows.addcmul(block.mlp(block.norm(rows) + shift), gate[row])
        return rows - before, None if lse is None else lse.mean(1)


class PackedModel(nn.Module):
    """Prediction `[1, N, dim]` from latents of that shape; runs its blocks in a recorded section."""

    def __init__(self, recorder: AllocationRecorder | None = None, blocks: int = 3):
        super().__init__()
        self.recorder = recorder
        self.blocks = nn.ModuleList(PackedBlock() for _ in range(blocks))
        self.head, self.text = nn.Linear(DIM, DIM), nn.Parameter(torch.zeros(TEXT, DIM))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        self.requires_grad_(False)

    def allocating(self) -> AbstractContextManager[None]:
        return nullcontext() if self.recorder is None else self.recorder.pause()

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        if self.recorder is None:
            return self._forward(x, sigma)
        out = torch.empty_like(x)
        with self.recorder.section():
            out.copy_(self._forward(x, sigma))
        return out

    def _forward(self, x: Tensor, sigma: float) -> Tensor:
        sequence = torch.cat([self.text, x[0]])
        t_emb = torch.cos(torch.arange(DIM) * sigma)[None]
        angles = torch.arange(len(sequence)).view(1, -1, 1, 1) / torch.arange(1, DIM // HEADS // 2 + 1)
        freqs = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], dim=-1).unflatten(-1, (2, 2))
        for block in self.blocks:
            if self.recorder is not None:
                self.recorder.next_block()
            sequence = self.run_block(block, sequence, t_emb, [(0, TEXT, 0), (TEXT, len(sequence), 0)], freqs)
        if self.recorder is not None:
            self.recorder.next_block(last=True)
        return self.head(sequence[TEXT:])[None]

    def run_block(self, block: nn.Module, *args: Any) -> Tensor:
        return block(*args, transformer_options={})


class GraphedModel(PackedModel):
    """Records each block's work at its second call, and replays it from then on: the block is not called any more."""

    def __init__(self) -> None:
        super().__init__()
        self.is_capturing = False
        self._calls: dict[nn.Module, int] = {}

    def run_block(self, block: nn.Module, *args: Any) -> Tensor:
        calls = self._calls[block] = self._calls.get(block, 0) + 1
        if calls > 2:
            return type(block).forward(block, *args, transformer_options={})
        self.is_capturing = calls == 2
        result = block(*args, transformer_options={})
        self.is_capturing = False
        return result
