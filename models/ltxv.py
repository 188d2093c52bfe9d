"""LTXV 0.9. LTX-2 and later, with audio, take whole steps.

A block takes x `[B, N, dim]` (the video alone, its guide frames last), context `[B, L, dim]`, attention_mask `[B, 1, 1,
L]` of the text or None, timestep `[B, 1 or N, 6 · dim]` and pe, and writes its result into x. Self-attention has a norm
over all heads, rotated positions and, in newer models, a gate per head; cross-attention to the text is not modulated;
the feed-forward comes last. Self-attention and feed-forward are preceded by an RMS norm without weights, shift and
scale, and followed by a gate: the sums of timestep and scale_shift_table.

pe is (cos, sin) `[B, N, dim]` at first, then (cos, sin, split), with `[B, H, N, D/2]` where split says that the halves
of a head are turned instead of adjacent channels, then (rotations `[B, N, H, D/2, 2, 2]`, split).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from ..engine.blocks.interface import Attend, BlockCall, TokenLayout, class_name
from ..engine.blocks.selection import Selection
from ..engine.planning.cost import BlockCost
from ..errors import UnsupportedBlocks
from .architecture import Architecture, Cast
from .block_code import BlockCode, OneTensorBlocks, require_attributes
from .preferred_attention import preferred_attention
from .rotary import once_a_call, rotate, rotations, selected_positions

FAMILY = "ltxv"
AUDIO_FAMILY = "ltxav"
SUPPORTED = "LTXV 0.9"
BLOCK = BlockCode(
    class_name="BasicTransformerBlock",
    parts=(
        *("attn2", "ff.net.0.proj.out_features", "scale_shift_table"),
        *(f"attn1.{part}" for part in ("to_q", "to_k", "to_v", "q_norm", "k_norm", "to_out", "heads")),
    ),
    arguments=("x", "context", "attention_mask", "timestep", "pe", "transformer_options"),
    leading=6,
)
DEFAULT_CONTEXT = 128
EPSILON = 1e-6

# Models and blocks are the host's and known by their attributes only, hence Any.


def describe_model(model: Any, cast: Cast) -> Architecture | None:
    """Return the architecture of an LTXV model, None for others. Raises UnsupportedBlocks for one with audio."""
    name = class_name(model)
    if name == "LTXAVModel":
        raise UnsupportedBlocks("within a block the audio attends to every video token", AUDIO_FAMILY)
    if name != "LTXVModel":
        return None
    require_attributes(model, "transformer_blocks", "inner_dim")
    for block in model.transformer_blocks:
        check(block)
    return Architecture(
        family=FAMILY,
        blocks=model.transformer_blocks,
        runner=LTXVRunner(cast),
        layout=lambda shape, conditions: layout(model, shape, conditions),
        cost=lambda layout, context: cost(model, layout, context),
        dim=model.inner_dim,
    )


def check(block: Any) -> None:
    """Raise UnsupportedBlocks unless a block is one that this file knows."""
    BLOCK.check(block)
    if getattr(block, "cross_attention_adaln", False):
        raise UnsupportedBlocks("its cross-attention is modulated by the noise level")


def layout(model: Any, shape: tuple[int, ...], conditions: Mapping[str, Any]) -> TokenLayout:
    """Return the layout of a latent `[B, C, T, H, W]`: a token for each place, guide frames included.

    Hosts that read a guide's mask leave out the tokens where it is negative.
    """
    frames, height, width = shape[-3:]
    places, mask, guides = frames * height * width, conditions.get("denoise_mask"), conditions.get("keyframe_idxs")
    if mask is None or guides is None or guides.shape[2] == 0 or not hasattr(model, "_process_input"):
        return TokenLayout(video=places, grid=(frames, height, width))
    return TokenLayout(video=places - int((mask[0] < 0).any(0).sum()))


def cost(model: Any, layout: TokenLayout, context: int | None) -> BlockCost:
    """Return the sizes of one block."""
    feed_forward = model.transformer_blocks[0].ff.net[0].proj.out_features
    return BlockCost.of(layout.total, model.inner_dim, feed_forward, context or DEFAULT_CONTEXT)


class LTXVRunner(OneTensorBlocks):
    """Runs a BasicTransformerBlock, which takes one tensor, writes into it and returns it."""

    in_place = True

    def __init__(self, cast: Cast):
        self._cast = cast

    def unsupported_reason(self, call: BlockCall) -> str:
        arguments, block = BLOCK.named_arguments(call), call.block
        options, mask = arguments.get("transformer_options") or {}, arguments.get("attention_mask")
        if "forward" in vars(block.attn1):
            return "another node has replaced its self-attention"
        if options.get("stg_skip_self_attn"):
            return "another node leaves out its self-attention"
        if arguments.get("self_attention_mask") is not None:
            return "guide frames are weighted within its self-attention"
        if mask is not None and mask.ndim > 1 and mask.shape[-2] != 1:
            return "its text mask differs from token to token"
        return BLOCK.foreign_arguments(call)

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments = BLOCK.named_arguments(call)
        x, options = arguments["x"], arguments.get("transformer_options") or {}
        table = self._cast(block.scale_shift_table, x)
        times = arguments["timestep"].unflatten(-1, table.shape).unbind(2)

        def chosen(part: int) -> Tensor:
            return table[part] + (times[part] if times[part].shape[1] == 1 else selection.gather(times[part]))

        attention = block.attn1
        heads, pe = attention.heads, arguments["pe"]
        freqs = once_a_call(selection, "positions", pe, lambda: positions(pe, heads))
        y = torch.addcmul(table[0] + times[0], normal(x), 1 + table[1] + times[1])
        k = rotate(split_heads(attention.k_norm(attention.to_k(y)), heads, pe), freqs)
        v = attention.to_v(y).unflatten(-1, (heads, -1))
        y = selection.gather(y)
        q = split_heads(attention.q_norm(attention.to_q(y)), heads, pe)
        q = rotate(q, selected_positions(freqs, selection))
        mixed, lse = attend(q, k, v, need_lse=need_lse, **preferred_attention(attention))
        if getattr(attention, "to_gate_logits", None) is not None:
            mixed = mixed * (2.0 * torch.sigmoid(attention.to_gate_logits(y))).unsqueeze(-1)
        del q, k, v, y

        before = selection.gather(x)
        rows = torch.addcmul(before, attention.to_out(mixed.flatten(2)), chosen(2))
        context, mask = arguments["context"], arguments.get("attention_mask")
        rows = rows + block.attn2(rows, context=context, mask=mask, transformer_options=options)
        y = block.ff(torch.addcmul(chosen(3), normal(rows), 1 + chosen(4)))
        residual = torch.addcmul(rows, y, chosen(5)).sub_(before)
        return residual, None if lse is None else lse.mean(1)


def normal(x: Tensor) -> Tensor:
    """Return `x [.., dim]` over its root mean square."""
    return rms_norm(x, x.shape[-1:], eps=EPSILON)


def turns_halves(pe: tuple) -> bool:
    """Tell whether positions turn the halves of a head instead of adjacent channels."""
    return isinstance(pe[-1], bool) and pe[-1]


def split_heads(x: Tensor, heads: int, pe: tuple) -> Tensor:
    """Return `x [B, N, dim]` by head, `[B, N, H, D]`, with the channels that are turned together side by side.

    Queries and keys take any order of channels, as long as it is the same.
    """
    x = x.unflatten(-1, (heads, -1))
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2) if turns_halves(pe) else x


def positions(pe: tuple, heads: int) -> Tensor:
    """Return rotations `[B, N, H, D/2, 2, 2]` of all tokens, from any of the forms of `pe`."""
    if pe[0].ndim == 6:
        return pe[0]
    if turns_halves(pe):
        return rotations(*(each.transpose(1, 2) for each in pe[:2]))
    return rotations(*(each[..., ::2].unflatten(-1, (heads, -1)) for each in pe[:2]))
