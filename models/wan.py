"""Wan 2.1 and 2.2 (T2V, I2V, 5B with one modulation per frame, camera, VACE's main blocks).

A block is rebuilt from its own submodules, called as modules, so that LoRA, fp8, quantised and offloaded weights work.
Block arguments: x `[B, N, dim]`, e `[B, 6, dim]` or `[B, T, 6, dim]`, freqs `[1, N, 1, D/2, 2, 2]`,
context `[B, L, dim]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..engine.blocks.interface import Attend, BlockCall, TokenLayout
from ..engine.blocks.selection import Selection
from ..engine.planning.cost import BlockCost
from ..errors import UnsupportedBlocks
from .architecture import Architecture, Cast
from .block_code import BlockCode
from .rotary import rotate, selected_positions

FAMILY = "wan"
SUPPORTED = "Wan 2.1 and 2.2"
MODEL_CLASSES = {"WanModel", "VaceWanModel", "CameraWanModel"}
BLOCK = BlockCode(
    class_name="WanAttentionBlock",
    parts=(
        *("norm1", "norm3", "cross_attn", "norm2", "ffn", "modulation"),
        *(f"self_attn.{part}" for part in ("q", "k", "v", "o", "norm_q", "norm_k", "num_heads", "head_dim")),
    ),
    arguments=("x", "e", "freqs", "context", "context_img_len", "transformer_options"),
    leading=4,
)
INNER_PATCHES = ("attn1_patch", "attn2_patch", "attn1_output_patch", "attn2_output_patch", "mlp_patch")
DEFAULT_CONTEXT = 512

# Models and blocks are the host's and known by their attributes only, hence Any.


def describe_model(model: Any, cast: Cast) -> Architecture | None:
    """Return the architecture of a Wan model, None for others. Raises UnsupportedBlocks for an unsupported variant."""
    if "Wan" not in type(model).__name__ or not hasattr(model, "blocks"):
        return None
    check(model)
    return Architecture(
        family=FAMILY,
        blocks=model.blocks,
        runner=WanRunner(cast),
        layout=lambda shape, conditions: layout(model, shape, conditions),
        cost=lambda layout, context: cost(model, layout, context),
        dim=model.dim,
    )


def check(model: Any) -> None:
    """Raise UnsupportedBlocks unless every block is one that this file knows."""
    name = type(model).__name__
    if name not in MODEL_CLASSES:
        raise UnsupportedBlocks(f"the Wan variant {name} is not supported yet")
    for attribute in ("patch_size", "dim", "ffn_dim"):
        if not hasattr(model, attribute):
            raise UnsupportedBlocks(f"this {name} has no {attribute}: its code has changed")
    if model.patch_size[0] != 1:
        raise UnsupportedBlocks(f"a patch size of {tuple(model.patch_size)} is not supported")
    for block in model.blocks:
        BLOCK.check(block)


def cost(model: Any, layout: TokenLayout, context: int | None) -> BlockCost:
    """Return the sizes of one block; Wan's own text encoder always gives 512 tokens."""
    text, others = context or DEFAULT_CONTEXT, layout.total - layout.video
    return BlockCost.of(layout.total, model.dim, model.ffn_dim, text, others=others)


def grid(patch: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the tokens along t, h, w of a latent `[.., T, H, W]`; the host pads to whole patches."""
    frames, height, width = (-(-size // step) for size, step in zip(shape[-3:], patch, strict=True))
    return frames, height, width


def layout(model: Any, shape: tuple[int, ...], conditions: Mapping[str, Any]) -> TokenLayout:
    """Return the layout: reference frames come before the video tokens, appended frames (`time_dim_concat`) after."""
    frames, height, width = grid(tuple(model.patch_size), shape)
    prefix = suffix = 0
    reference = conditions.get("reference_latent")
    if reference is not None and getattr(model, "ref_conv", None) is not None:
        prefix = (reference.shape[-2] // model.patch_size[1]) * (reference.shape[-1] // model.patch_size[2])
    appended = conditions.get("time_dim_concat")
    if appended is not None:
        suffix = appended.shape[2] * height * width
    return TokenLayout(video=frames * height * width, prefix=prefix, suffix=suffix)


def token_rows(e: Tensor, tokens: int, selection: Selection | None) -> Tensor:
    """Return a modulation `[B or 1, T, dim]` per token, `[B, M or N, dim]` by each token's frame; unchanged for T = 1.

    A frame has tokens // T tokens; where that leaves a rest, it has one more, and the last frame has fewer.
    """
    frames = e.shape[1]
    if frames == 1:
        return e
    span = tokens // frames if tokens % frames == 0 else tokens // frames + 1
    index = torch.arange(tokens, device=e.device) // span if selection is None else selection.indices // span
    if selection is None:
        return e.index_select(1, index)
    return e.gather(1, index.unsqueeze(-1).expand(-1, -1, e.shape[-1]))


class WanRunner:
    """Runs a WanAttentionBlock, which takes and returns one tensor and leaves its input as it is."""

    in_place = False

    def __init__(self, cast: Cast):
        self._cast = cast

    def entry(self, call: BlockCall) -> Tensor:
        return call.args[0] if call.args else call.kwargs["x"]

    def exit(self, result: Any) -> Tensor:
        return result

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        return hidden

    def unsupported_reason(self, call: BlockCall) -> str:
        if reason := BLOCK.foreign_arguments(call):
            return reason
        block: Any = call.block
        if "forward" in vars(block.self_attn):
            return "another node has replaced its self-attention"
        patches = (BLOCK.named_arguments(call).get("transformer_options") or {}).get("patches", {})
        inside = [name for name in INNER_PATCHES if patches.get(name)]
        return f"another node patches inside it ({', '.join(inside)})" if inside else ""

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments = BLOCK.named_arguments(call)
        x, freqs, options = arguments["x"], arguments["freqs"], arguments.get("transformer_options") or {}
        tokens = x.shape[1]
        shift1, scale1, gate1, shift2, scale2, gate2 = self._modulation(block, arguments["e"], x)

        def every(part: Tensor) -> Tensor:
            return token_rows(part, tokens, None)

        def chosen(part: Tensor) -> Tensor:
            return token_rows(part, tokens, selection)

        attention = block.self_attn
        heads = (attention.num_heads, attention.head_dim)
        y = torch.addcmul(every(shift1), block.norm1(x), 1 + every(scale1))
        k = rotate(attention.norm_k(attention.k(y)).unflatten(-1, heads), freqs)
        v = attention.v(y).unflatten(-1, heads)
        q = attention.norm_q(attention.q(selection.gather(y))).unflatten(-1, heads)
        q = rotate(q, selected_positions(freqs, selection))
        mixed, lse = attend(q, k, v, need_lse=need_lse)
        del q, k, v, y

        before = selection.gather(x)
        rows = torch.addcmul(before, attention.o(mixed.flatten(2)), chosen(gate1))
        rows = rows + block.cross_attn(
            block.norm3(rows),
            arguments["context"],
            context_img_len=arguments.get("context_img_len"),
            transformer_options=options,
        )
        y = block.ffn(torch.addcmul(chosen(shift2), block.norm2(rows), 1 + chosen(scale2)))
        residual = torch.addcmul(rows, y, chosen(gate2)).sub_(before)
        return residual, None if lse is None else lse.mean(1)

    def _modulation(self, block: Any, e: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale and gate of attention and feed-forward, each `[B, T, dim]`; T = 1: one for all tokens."""
        own = self._cast(block.modulation, x)
        if e.ndim < 4:
            return (own + e).chunk(6, dim=1)
        return (own.unsqueeze(0) + e).unbind(2)
