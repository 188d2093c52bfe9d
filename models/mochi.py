"""Mochi, whose blocks take two streams of different width: the video, x `[B, N, dim]`, and the text, y `[B, L, dim_y]`.

A block returns both anew. c `[B, dim]`, from time and text, gives each a scale before and a gate after attention, and
again around its feed-forward part; the gate goes through tanh, and what it weighs through an RMS norm without weights.
One fused Linear per stream makes q, k and v, all as wide as the video's; attention is joint, the video's tokens first,
then the first `crop_y` tokens of the text, the others being padding. Only the video's q and k have rotary positions,
cos and sin `[N, H, D/2]`, which turn adjacent channels. The last block returns the text as it came.
The engine's hidden states are the video alone; a token step computes the text in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..engine.blocks.interface import Attend, BlockCall, TokenLayout, class_name, unwrap
from ..engine.blocks.selection import Selection
from ..engine.planning.cost import BlockCost
from .architecture import Architecture, Cast
from .block_code import BlockCode, require_attributes
from .linears import Slices, project
from .preferred_attention import preferred_attention
from .rotary import rotate_pairs, selected_rows

FAMILY = "mochi"
SUPPORTED = "Mochi"
PARTS = ("mod", "attn.qkv", "attn.q_norm", "attn.k_norm", "attn.proj")  # one for each stream
BLOCK = BlockCode(
    class_name="AsymmetricJointBlock",
    parts=(
        *("update_y", "attn.num_heads", "attn.head_dim", "mlp_x.w2.in_features"),
        *(f"{part}_{stream}" for part in PARTS for stream in "xy"),
    ),
    arguments=("x", "c", "y", "transformer_options", "rope_cos", "rope_sin", "crop_y"),
    leading=3,
)
TEXT = "text"  # name of the text's stream in `BlockCall.other_streams`
DEFAULT_CONTEXT = 256

# Models and blocks are the host's and known by their attributes only, hence Any.


def describe_model(model: Any, cast: Cast) -> Architecture | None:
    """Return the architecture of Mochi, None for other models. Raises UnsupportedBlocks where its code has changed."""
    if class_name(model) != "AsymmDiTJoint":
        return None
    require_attributes(model, "patch_size", "hidden_size_x", "hidden_size_y")
    for block in model.blocks:
        BLOCK.check(block)
    return Architecture(
        family=FAMILY,
        blocks=model.blocks,
        runner=MochiRunner(cast.slices),
        layout=lambda shape, conditions: layout(model, shape),
        cost=lambda layout, context: cost(model, layout, context, cast.slices),
        dim=model.hidden_size_x,
    )


def cost(model: Any, layout: TokenLayout, context: int | None, slices: Slices) -> BlockCost:
    """Return the sizes of one block. All of the text's work is done at any budget; its padding counts as text."""
    text, block = context or DEFAULT_CONTEXT, unwrap(model.blocks[0])
    tokens, dim, narrow = layout.total + text, model.hidden_size_x, model.hidden_size_y
    fused = 0 if slices.possible(block.attn.qkv_x) else dim
    video = BlockCost.of(tokens, dim, block.mlp_x.w2.in_features, context=0, matrices=3, fused=fused)
    linear = 4 * narrow * dim + 3 * narrow * block.mlp_y.w2.in_features if block.update_y else 3 * narrow * dim
    return replace(video, always=video.always + text * (linear + 2 * tokens * dim) / layout.total)


def layout(model: Any, shape: tuple[int, ...]) -> TokenLayout:
    """Return the layout of a latent `[.., T, H, W]`: the text joins in attention only."""
    frames, height, width = shape[-3], shape[-2] // model.patch_size, shape[-1] // model.patch_size
    return TokenLayout(video=frames * height * width, grid=(frames, height, width), joins_behind=True)


class MochiRunner:
    """Runs an AsymmetricJointBlock, which takes and returns video and text and leaves its input as it is."""

    in_place = False

    def __init__(self, slices: Slices | None = None):
        """slices: to compute only those parts of joint projections that are needed."""
        self._slices = slices

    def entry(self, call: BlockCall) -> Tensor:
        return BLOCK.named_arguments(call)["x"]

    def exit(self, result: Any) -> Tensor:
        return result[0]

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        return hidden, call.other_streams[TEXT]

    def unsupported_reason(self, call: BlockCall) -> str:
        if reason := BLOCK.foreign_arguments(call):
            return reason
        block: Any = call.block
        return "another node has replaced its attention" if "forward" in vars(unwrap(block.attn)) else ""

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments, attention = BLOCK.named_arguments(call), block.attn
        x, y, crop = arguments["x"], arguments["y"], arguments["crop_y"]
        time = functional.silu(arguments["c"]).unsqueeze(1)
        scale, gate, feed_scale, feed_gate = block.mod_x(time).chunk(4, dim=-1)
        of_text = block.mod_y(time).chunk(4 if block.update_y else 1, dim=-1)

        q, k, v = self._video_projections(attention, modulated(x, scale), arguments, selection)
        text_q, text_k, text_v = self._text_projections(attention, modulated(y, of_text[0])[:, :crop])
        queries = torch.cat([q, text_q], dim=1) if block.update_y else q
        keys, values = torch.cat([k, text_k], dim=1), torch.cat([v, text_v], dim=1)
        mixed, lse = attend(queries, keys, values, need_lse=need_lse, **preferred_attention(attention))
        video, text = mixed.flatten(2).split([selection.count, mixed.shape[1] - selection.count], dim=1)
        del q, k, v, queries, keys, values, mixed

        before = selection.gather(x)
        rows = gated(before, attention.proj_x(video), gate)
        rows = gated(rows, block.mlp_x(modulated(rows, feed_scale)), feed_gate)
        if block.update_y:
            padded = functional.pad(text, (0, 0, 0, y.shape[1] - text.shape[1]))
            y = gated(y, attention.proj_y(padded), of_text[1])
            y = gated(y, block.mlp_y(modulated(y, of_text[2])), of_text[3])
        call.other_streams[TEXT] = y
        return rows.sub_(before), None if lse is None else lse[:, :, : selection.count].mean(1)

    def _video_projections(
        self, attention: Any, x: Tensor, arguments: Mapping[str, Any], selection: Selection
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries `[B, M, H, D]` of the selected tokens, and keys and values of all, from `x [B, N, dim]`."""
        heads = (attention.num_heads, attention.head_dim)
        width = attention.num_heads * attention.head_dim
        others, queries = slice(width, 3 * width), slice(0, width)
        both, q = project(self._slices, attention.qkv_x, x, selection, others, queries)
        k, v = both.chunk(2, dim=-1)
        cos, sin = arguments["rope_cos"], arguments["rope_sin"]
        chosen_cos, chosen_sin = selected_rows("cos", cos, selection), selected_rows("sin", sin, selection)
        q = rotate_pairs(attention.q_norm_x(q.unflatten(-1, heads)), chosen_cos, chosen_sin)
        return q, rotate_pairs(attention.k_norm_x(k.unflatten(-1, heads)), cos, sin), v.unflatten(-1, heads)

    def _text_projections(self, attention: Any, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values `[B, crop, H, D]` of the text without padding, `y [B, crop, dim_y]`."""
        parts = attention.qkv_y(y).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (attention.num_heads, attention.head_dim)) for part in parts)
        return attention.q_norm_y(q), attention.k_norm_y(k), v


def modulated(x: Tensor, scale: Tensor) -> Tensor:
    """Return RMS-normed `x [B, M, dim]` times one plus `scale [B, 1, dim]`."""
    return functional.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale)


def gated(x: Tensor, result: Tensor, gate: Tensor) -> Tensor:
    """Return `x [B, M, dim]` plus the RMS-normed `result` times tanh of `gate [B, 1, dim]`."""
    return torch.addcmul(x, functional.rms_norm(result, result.shape[-1:], eps=1e-6), gate.tanh())
