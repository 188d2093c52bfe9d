"""Kandinsky 5, video (text and image to video) and image.

A block takes visual_embed `[B, N, dim]` (the video alone), text_embed `[B, L, dim]`, time_embed `[B, time_dim]` and
freqs `[1, N, 1, D/2, 2, 2]`, and returns the new visual_embed; its input stays as it is. Self-attention with one norm
per head and rotated positions, cross-attention to the text, feed-forward: each is preceded by a LayerNorm with shift
and scale and followed by a gate, from one Linear of the time. Above 8192 tokens the host computes its Linears in
pieces, with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..engine.blocks.interface import Attend, BlockCall, TokenLayout, class_name
from ..engine.blocks.selection import Selection
from ..engine.planning.cost import BlockCost
from .architecture import Architecture, Cast
from .block_code import BlockCode, OneTensorBlocks, require_attributes
from .preferred_attention import preferred_attention
from .rotary import rotate, selected_positions

FAMILY = "kandinsky5"
SUPPORTED = "Kandinsky 5"
ATTENTION_PARTS = ("to_query", "to_key", "to_value", "query_norm", "key_norm", "out_layer", "num_heads")
BLOCK = BlockCode(
    class_name="TransformerDecoderBlock",
    parts=(
        *("visual_modulation", "self_attention_norm", "cross_attention_norm", "feed_forward_norm"),
        *(f"self_attention.{part}" for part in ATTENTION_PARTS),
        *("cross_attention", "feed_forward.in_layer.out_features"),
    ),
    arguments=("visual_embed", "text_embed", "time_embed", "freqs", "transformer_options"),
    leading=4,
)
DEFAULT_CONTEXT = 256

# Models and blocks are the host's and known by their attributes only, hence Any.


def describe_model(model: Any, cast: Cast) -> Architecture | None:
    """Return the architecture of a Kandinsky 5 model, None for others. Raises UnsupportedBlocks for changed code."""
    if class_name(model) != "Kandinsky5":
        return None
    require_attributes(model, "visual_transformer_blocks", "patch_size", "model_dim")
    for block in model.visual_transformer_blocks:
        BLOCK.check(block)
    return Architecture(
        family=FAMILY,
        blocks=model.visual_transformer_blocks,
        runner=KandinskyRunner(),
        layout=lambda shape, conditions: layout(model, shape, conditions),
        cost=lambda layout, context: cost(model, layout, context),
        dim=model.model_dim,
    )


def layout(model: Any, shape: tuple[int, ...], conditions: Mapping[str, Any]) -> TokenLayout:
    """Return the layout of a latent `[B, C, T, H, W]`, or of an image's `[B, C, H, W]`."""
    sizes = (1, *shape[-2:]) if len(shape) == 4 else shape[-3:]
    frames, height, width = (-(-size // patch) for size, patch in zip(sizes, model.patch_size, strict=True))
    return TokenLayout(video=frames * height * width, grid=(frames, height, width))


def cost(model: Any, layout: TokenLayout, context: int | None) -> BlockCost:
    """Return the sizes of one block."""
    feed_forward = model.visual_transformer_blocks[0].feed_forward.in_layer.out_features
    return BlockCost.of(layout.total, model.model_dim, feed_forward, context or DEFAULT_CONTEXT)


class KandinskyRunner(OneTensorBlocks):
    """Runs a TransformerDecoderBlock, which takes and returns one tensor and leaves its input as it is."""

    in_place = False
    first_argument = "visual_embed"

    def unsupported_reason(self, call: BlockCall) -> str:
        block: Any = call.block
        if "forward" in vars(block.self_attention):
            return "another node has replaced its self-attention"
        return BLOCK.foreign_arguments(call)

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments = BLOCK.named_arguments(call)
        x, freqs, options = arguments["visual_embed"], arguments["freqs"], arguments.get("transformer_options") or {}
        modulation = block.visual_modulation(arguments["time_embed"]).unsqueeze(1).chunk(9, dim=-1)
        (shift, scale, gate), of_cross_attention, of_feed_forward = (modulation[at : at + 3] for at in (0, 3, 6))

        attention = block.self_attention
        heads = (attention.num_heads, -1)
        y = torch.addcmul(shift, block.self_attention_norm(x), 1 + scale)
        k = rotate(attention.key_norm(attention.to_key(y).unflatten(-1, heads)), freqs)
        v = attention.to_value(y).unflatten(-1, heads)
        q = attention.query_norm(attention.to_query(selection.gather(y)).unflatten(-1, heads))
        q = rotate(q, selected_positions(freqs, selection))
        mixed, lse = attend(q, k, v, need_lse=need_lse, **preferred_attention(attention))
        del q, k, v, y

        before = selection.gather(x)
        rows = torch.addcmul(before, gate, attention.out_layer(mixed.flatten(2)))
        shift, scale, gate = of_cross_attention
        y = torch.addcmul(shift, block.cross_attention_norm(rows), 1 + scale)
        y = block.cross_attention(y, arguments["text_embed"], transformer_options=options)
        rows = torch.addcmul(rows, gate, y)
        shift, scale, gate = of_feed_forward
        y = block.feed_forward(torch.addcmul(shift, block.feed_forward_norm(rows), 1 + scale))
        residual = torch.addcmul(rows, gate, y).sub_(before)
        return residual, None if lse is None else lse.mean(1)
