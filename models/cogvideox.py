"""CogVideoX (1.0, 1.5, image to video) and VOID.

A block takes hidden_states `[B, N, dim]` of the video, encoder_hidden_states `[B, L, dim]` of the text, temb `[B,
time_dim]` and image_rotary_emb (cos, sin), each `[N, D]` in fp32, or None, and returns both streams anew; its inputs
stay as they are. Text and video go through the same Linears, and are modulated apart. They attend jointly, the text in
front; only the video's queries and keys are rotated. There is no cross-attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from ..engine.blocks.interface import Attend, BlockCall, TokenLayout, class_name
from ..engine.blocks.selection import Selection
from ..engine.planning.cost import BlockCost
from .architecture import Architecture, Cast
from .block_code import BlockCode, require_attributes
from .preferred_attention import preferred_attention
from .rotary import once_a_call, rotate, rotations, selected_positions

FAMILY = "cogvideox"
SUPPORTED = "CogVideoX and VOID"
BLOCK = BlockCode(
    class_name="CogVideoXBlock",
    parts=(
        *("norm1", "norm2", "q", "k", "v", "norm_q", "norm_k", "attn_out", "ff_out", "num_heads"),
        "ff_proj.out_features",
    ),
    arguments=("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb", "transformer_options"),
    leading=4,
)
DEFAULT_TEXT = 226

# Models and blocks are the host's and known by their attributes only, hence Any.


def describe_model(model: Any, cast: Cast) -> Architecture | None:
    """Return the architecture of a CogVideoX model, None for others. Raises UnsupportedBlocks for changed code."""
    name = class_name(model)
    if name != "CogVideoXTransformer3DModel":
        return None
    require_attributes(model, "blocks", "patch_size", "patch_size_t", "dim")
    for block in model.blocks:
        BLOCK.check(block)
    return Architecture(
        family=FAMILY,
        blocks=model.blocks,
        runner=CogVideoXRunner(),
        layout=lambda shape, conditions: layout(model, shape, conditions),
        cost=lambda layout, context: cost(model, layout),
        dim=model.dim,
    )


def layout(model: Any, shape: tuple[int, ...], conditions: Mapping[str, Any]) -> TokenLayout:
    """Return the layout of a latent `[B, C, T, H, W]`, which the host pads to whole patches: text, then video."""
    patches = (model.patch_size_t or 1, model.patch_size, model.patch_size)
    frames, height, width = (-(-size // patch) for size, patch in zip(shape[-3:], patches, strict=True))
    text = conditions.get("c_crossattn")
    prefix = DEFAULT_TEXT if text is None else text.shape[1]
    return TokenLayout(video=frames * height * width, prefix=prefix, grid=(frames, height, width))


def cost(model: Any, layout: TokenLayout) -> BlockCost:
    """Return the sizes of one block."""
    feed_forward = model.blocks[0].ff_proj.out_features
    return BlockCost.of(layout.total, model.dim, feed_forward, context=0, others=layout.prefix)


class CogVideoXRunner:
    """Runs a CogVideoXBlock, which takes and returns video and text, and leaves its inputs as they are."""

    in_place = False

    def entry(self, call: BlockCall) -> Tensor:
        arguments = BLOCK.named_arguments(call)
        return torch.cat((arguments["encoder_hidden_states"], arguments["hidden_states"]), 1)

    def exit(self, result: Any) -> Tensor:
        video, text = result
        return torch.cat((text, video), 1)

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        text = BLOCK.named_arguments(call)["encoder_hidden_states"].shape[1]
        return hidden[:, text:], hidden[:, :text]

    def unsupported_reason(self, call: BlockCall) -> str:
        return BLOCK.foreign_arguments(call)

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments = BLOCK.named_arguments(call)
        video, text, temb = (arguments[name] for name in BLOCK.arguments[:3])
        heads, length = (block.num_heads, -1), text.shape[1]

        shifted_video, shifted_text, gate, text_gate = block.norm1(video, text, temb)
        y = torch.cat((shifted_text, shifted_video), 1)
        del shifted_video, shifted_text
        q = block.norm_q(block.q(selection.gather(y)).unflatten(-1, heads))
        k = block.norm_k(block.k(y).unflatten(-1, heads))
        v = block.v(y).unflatten(-1, heads)
        angles = arguments.get("image_rotary_emb")
        if angles is not None:
            freqs = once_a_call(selection, "joint positions", angles, lambda: joint_positions(angles, length))
            q, k = rotate(q, selected_positions(freqs, selection)), rotate(k, freqs)
        mixed, lse = attend(q, k, v, need_lse=need_lse, **preferred_attention(block))
        del q, k, v, y

        chosen = once_a_call(selection, "video tokens", None, lambda: selection_behind(selection, length))
        before = text, chosen.gather(video)
        y = block.attn_out(mixed.flatten(2))
        text_rows = torch.addcmul(text, text_gate, y[:, :length])
        rows = torch.addcmul(before[1], gate, y[:, length:])
        y, shifted_text, gate, text_gate = block.norm2(rows, text_rows, temb)
        y = block.ff_out(gelu(block.ff_proj(torch.cat((shifted_text, y), 1)), approximate="tanh"))
        text_rows = torch.addcmul(text_rows, text_gate, y[:, :length])
        rows = torch.addcmul(rows, gate, y[:, length:])
        residual = torch.cat((text_rows, rows), 1).sub_(torch.cat(before, 1))
        return residual, None if lse is None else lse.mean(1)


def joint_positions(angles: tuple[Tensor, Tensor], text: int) -> Tensor:
    """Return rotations `[1, text + N, 1, D/2, 2, 2]`: none for the text, then the video's.

    angles: cos and sin of the video, `[N, D]`, the same for both channels of a pair.
    """
    cos, sin = (each[:, ::2] for each in angles)
    still = cos.new_ones(text, cos.shape[1])
    return rotations(torch.cat((still, cos)), torch.cat((torch.zeros_like(still), sin)))[None, :, None]


def selection_behind(selection: Selection, prefix: int) -> Selection:
    """Return the selected tokens behind the first `prefix`, all of which are selected, counted from there."""
    return Selection(selection.indices[:, prefix:] - prefix, selection.tokens - prefix)
