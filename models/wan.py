"""Wan 2.1 and 2.2, and the models that are built on their blocks.

A block reads and returns x `[B, N, dim]` and leaves its argument as it is; e `[B, 6, dim]` or, a row for each of T
stretches of tokens, `[B, T, 6, dim]`; freqs `[1, N, 1, D/2, 2, 2]`; context `[B, L, dim]`, the picture's tokens first:

    x += gate1 · o(attention(rope(norm(q(y))), rope(norm(k(y))), v(y))),  y = shift1 + norm1(x) · (1 + scale1)
    x += cross_attn(norm3(x), context)
    x += attention to speech, where there is one (`wan_speech`)
    x += gate2 · ffn(shift2 + norm2(x) · (1 + scale2))

It is rebuilt from its own submodules, called as modules, so that LoRA, fp8, quantised and offloaded weights work. The
variants differ in what lies around the video's tokens (`wan_layout`), and in what the host does between blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..engine.blocks.interface import Attend, BlockCall, TokenLayout, class_name
from ..engine.blocks.selection import Selection
from ..engine.planning.cost import BlockCost
from ..errors import UnsupportedBlocks
from .architecture import Architecture, Cast
from .block_code import BlockCode, OneTensorBlocks, require_attributes
from .preferred_attention import preferred_attention
from .rotary import rotate, selected_positions
from .wan_layout import WanLayout, layout
from .wan_speech import HUMO_TOKENS, hear, hear_talk, is_talk, talk_reason

FAMILY = "wan"
SUPPORTED = "Wan 2.1 and 2.2"
MODEL_CLASSES = {
    *("WanModel", "VaceWanModel", "CameraWanModel", "AnimateWanModel", "HumoWanModel", "SCAILWanModel"),
    *("SCAIL2WanModel", "WanModel_S2V", "WanDancerModel"),
}
OWN_REASONS = {"WanAnimate2Model": "its blocks are called in two parts, the second with what the first made of a pose"}
ARGUMENTS = ("x", "e", "freqs", "context", "context_img_len", "transformer_options")
BLOCK = BlockCode(
    class_name="WanAttentionBlock",
    parts=(
        *("norm1", "norm3", "cross_attn", "norm2", "ffn", "modulation"),
        *(f"self_attn.{part}" for part in ("q", "k", "v", "o", "norm_q", "norm_k", "num_heads", "head_dim")),
    ),
    arguments=ARGUMENTS,
    leading=4,
)
SPEECH = "audio_cross_attn_wrapper"
HUMO_BLOCK = BlockCode(
    class_name="WanAttentionBlockAudio",
    parts=(
        *BLOCK.parts,
        f"{SPEECH}.norm1_audio",
        *(f"{SPEECH}.audio_cross_attn.{part}" for part in ("q", "k.in_features", "v", "o", "norm_q", "norm_k")),
    ),
    arguments=(*ARGUMENTS[:5], "audio", ARGUMENTS[5]),
    leading=6,
)
PICTURE_TOKENS = 257  # of the context, where a caller leaves their number to the block
AFTER_TEXT = "attn2_patch"
INNER_PATCHES = ("attn1_patch", AFTER_TEXT, "attn1_output_patch", "attn2_output_patch", "mlp_patch")
DEFAULT_CONTEXT = 512

# Models and blocks are the host's and known by their attributes only, hence Any.


def describe_model(model: Any, cast: Cast) -> Architecture | None:
    """Return the architecture of a Wan model, None for others. Raises UnsupportedBlocks for an unsupported variant."""
    if "Wan" not in class_name(model) or not hasattr(model, "blocks"):
        return None
    code = check(model)
    return Architecture(
        family=FAMILY,
        blocks=model.blocks,
        runner=WanRunner(cast, code),
        layout=lambda shape, conditions: layout(model, shape, conditions),
        cost=lambda layout, context: cost(model, layout, context),
        dim=model.dim,
        options_limit=lambda options: inner_patches(options, code),
    )


def check(model: Any) -> BlockCode:
    """Return the code of the model's blocks. Raises UnsupportedBlocks unless this file knows every one of them."""
    name = class_name(model)
    if name not in MODEL_CLASSES:
        raise UnsupportedBlocks(OWN_REASONS.get(name, f"the Wan variant {name} is not supported yet"))
    require_attributes(model, "patch_size", "dim", "ffn_dim")
    if model.patch_size[0] != 1:
        raise UnsupportedBlocks(f"a patch size of {tuple(model.patch_size)} is not supported")
    code = HUMO_BLOCK if name == "HumoWanModel" else BLOCK
    for block in model.blocks:
        code.check(block)
    return code


def cost(model: Any, layout: TokenLayout, context: int | None) -> BlockCost:
    """Return the cost of an average block; Wan's own text encoder always gives 512 tokens.

    VACE's own blocks, which the host runs for all tokens, count as a share of each.
    """
    assert isinstance(layout, WanLayout)
    dim, seen = model.dim, (context or DEFAULT_CONTEXT) + layout.pictures
    counted = BlockCost.of(layout.total, dim, model.ffn_dim, seen, others=layout.total - layout.video)
    always, selected = counted.always + 2 * dim * dim * layout.pictures / layout.total, counted.selected
    speech = getattr(model.blocks[0], SPEECH, None)
    if speech is not None:
        keys_and_values = 2 * speech.audio_cross_attn.k.in_features * dim * HUMO_TOKENS / layout.frame
        always += keys_and_values + 2 * HUMO_TOKENS * dim
        selected += 2 * dim * dim
    always += (always + selected) * len(getattr(model, "vace_blocks", ())) / len(model.blocks)
    return replace(counted, always=always, selected=selected)


def inner_patches(options: Mapping[str, Any], code: BlockCode) -> str:
    """Return why other nodes' patches inside blocks keep these from running for selected tokens; "" without any."""
    patches = options.get("patches", {})
    inside = [name for name in INNER_PATCHES if patches.get(name)]
    if code is BLOCK and is_talk(_patches_after_text(options)) and AFTER_TEXT in inside:
        inside.remove(AFTER_TEXT)
    return f"another node patches inside it ({', '.join(inside)})" if inside else ""


def _patches_after_text(options: Mapping[str, Any]) -> Sequence[Any]:
    return options.get("patches", {}).get(AFTER_TEXT, ())


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


class WanRunner(OneTensorBlocks):
    """Runs a WanAttentionBlock, or HuMo's, which also attends to speech."""

    in_place = False

    def __init__(self, cast: Cast, code: BlockCode = BLOCK):
        self._cast, self.code = cast, code

    def unsupported_reason(self, call: BlockCall) -> str:
        if reason := self.code.foreign_arguments(call):
            return reason
        block: Any = call.block
        if "forward" in vars(block.self_attn):
            return "another node has replaced its self-attention"
        if self.code is HUMO_BLOCK and "forward" in vars(block.audio_cross_attn_wrapper.audio_cross_attn):
            return "another node has replaced its attention to speech"
        options = self.code.named_arguments(call).get("transformer_options") or {}
        reasons = (talk_reason(patch, options, self.entry(call).shape[1]) for patch in _patches_after_text(options))
        return inner_patches(options, self.code) or next(filter(None, reasons), "")

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments = self.code.named_arguments(call)
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
        mixed, lse = attend(q, k, v, need_lse=need_lse, **preferred_attention(attention))
        del q, k, v, y

        before = selection.gather(x)
        rows = torch.addcmul(before, attention.o(mixed.flatten(2)), chosen(gate1))
        rows = rows + block.cross_attn(
            block.norm3(rows),
            arguments["context"],
            context_img_len=arguments.get("context_img_len", PICTURE_TOKENS),
            transformer_options=options,
        )
        if arguments.get("audio") is not None:
            rows = hear(block, rows, arguments["audio"], selection, attend)
        for patch in _patches_after_text(options):
            rows = hear_talk(patch, rows, options, selection, attend)
        y = block.ffn(torch.addcmul(chosen(shift2), block.norm2(rows), 1 + chosen(scale2)))
        residual = torch.addcmul(rows, y, chosen(gate2)).sub_(before)
        return residual, None if lse is None else lse.mean(1)

    def _modulation(self, block: Any, e: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale and gate of attention and feed-forward, each `[B, T, dim]`; T = 1: one for all tokens."""
        own = self._cast(block.modulation, x)
        if e.ndim < 4:
            return (own + e).chunk(6, dim=1)
        return (own.unsqueeze(0) + e).unbind(2)
