"""MiniMax-H3 (video with sound, from text, keyframes and references), and its distilled variants.

All tokens lie in one sequence without a batch: text, keyframes or references, sound, video last. Block arguments: x
`[S, dim]`, t_emb `[T, t_dim]` for the T different times in the call, mod_segments, rope_freqs `[1, S, 1, R/2, 2, 2]`.

    shift, scale, gate (twice) = adaln_proj(t_emb)            each [3 T, dim]: one row per time and kind of token
    x += gate · attn(norm1(x) · (1 + scale) + shift)          qkv in one Linear, RMS norm of q and k per head
    x += gate · mlp(norm2(x) · (1 + scale) + shift)           gated SiLU

Both sums are written into x. mod_segments covers the sequence with `(start, stop, row)`: the row of the modulation, or
a tensor with a row for each token. Rotary pairs are the channels i and i + R/2 of the first R channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..engine.blocks.interface import Attend, BlockCall, TokenLayout, class_name
from ..engine.blocks.selection import Selection
from ..engine.planning.cost import BlockCost
from .architecture import Architecture, Cast
from .block_code import BlockCode, require_attributes
from .linears import Slices, project
from .preferred_attention import preferred_attention
from .rotary import half_turns, once_a_call, rotate_halves_

FAMILY = "minimax_h3"
SUPPORTED = "MiniMax-H3"
MODEL_CLASS = "MiniMaxH3Model"
BLOCK = BlockCode(
    class_name="DiTBlock",
    parts=(
        *("norm1", "norm2", "adaln_proj", "mlp.fc2.in_features"),
        *(f"attn.{part}" for part in ("qkv_proj", "q_norm", "k_norm", "out_proj", "heads", "head_dim")),
    ),
    arguments=("x", "t_emb", "mod_segments", "rope_freqs", "transformer_options", "attention"),
    leading=4,
)
Segments = Sequence[tuple[int, int, "int | Tensor"]]

# Models and blocks are the host's and known by their attributes only, hence Any.


def describe_model(model: Any, cast: Cast) -> Architecture | None:
    """Return the architecture of a MiniMax-H3, None for others. Raises UnsupportedBlocks if its code has changed."""
    if class_name(model) != MODEL_CLASS:
        return None
    require_attributes(model, "blocks", "patch_size", "hidden_size")
    for block in model.blocks:
        BLOCK.check(block)
    return Architecture(
        family=FAMILY,
        blocks=model.blocks,
        runner=MiniMaxH3Runner(cast.slices),
        layout=lambda shape, conditions: layout(model, shape, conditions),
        cost=lambda layout, context: cost(model, layout, cast.slices),
        dim=model.hidden_size,
    )


def cost(model: Any, layout: TokenLayout, slices: Slices) -> BlockCost:
    """Return the sizes of one block; the text is part of the sequence."""
    block = model.blocks[0]
    inner = block.attn.heads * block.attn.head_dim
    fused = 0 if slices.possible(block.attn.qkv_proj) else inner
    sizes = {"inner": inner, "matrices": 3, "fused": fused, "others": layout.total - layout.video}
    return BlockCost.of(layout.total, model.hidden_size, block.mlp.fc2.in_features, context=0, **sizes)


def layout(model: Any, shape: tuple[int, ...], conditions: Mapping[str, Any]) -> TokenLayout:
    """Return the layout. shape: of the packed latent `[1, 1, …]`; conditions tell the shapes of video and sound.

    Before a run keyframes and references are there as the conditioning has them, in a call as the model packs them.
    """
    video, *sound = conditions.get("latent_shapes") or [shape]
    grid = [-(-size // step) for size, step in zip(video[-3:], model.patch_size, strict=True)]
    text, payload = conditions.get("c_crossattn"), conditions.get("minimax_payload") or {}
    text_tokens = 0 if text is None else text.shape[1]
    padded = (size * step for size, step in zip(grid, model.patch_size, strict=True))
    prefix = _packed_prefix(payload.get("layout"), (text_tokens, *padded, *(each[-1] for each in sound)))
    if prefix is None:
        keyframes = payload.get("keyframes") or conditions.get("minimax_keyframes") or ()
        references = payload.get("refs") or conditions.get("minimax_refs") or ()
        known = sum(_keyframe_tokens(each, prod(grid[1:])) for each in keyframes)
        known += sum(_reference_tokens(each, prod(model.patch_size)) for each in references)
        prefix = text_tokens + known + sum(prod(each[2:]) for each in sound)
    return TokenLayout(video=prod(grid), prefix=prefix, grid=(grid[0], grid[1], grid[2]))


def _packed_prefix(packed: Any, signature: tuple[int, ...]) -> int | None:
    """Return where the video begins in the sequence that the model has packed; None if it was for other sizes."""
    if getattr(packed, "signature", None) != signature:
        return None
    return next((start for start, _, kind in packed.segments if kind == "video"), None)


def _keyframe_tokens(keyframe: Mapping[str, Any], frame_tokens: int) -> int:
    """Count the tokens of a keyframe: a frame or a clip in the video's size, sound, or both."""
    frames, sound = keyframe.get("latent"), keyframe.get("audio_latent")
    count = 0 if frames is None else frames.shape[2] * frame_tokens
    return count if sound is None else count + 2 * sound.shape[-1]


def _reference_tokens(reference: Mapping[str, Any], patch: int) -> int:
    """Count the tokens of a reference: an image, a clip in a size of its own, sound in stereo, or a clip with sound."""
    pixels = reference.get("latent_h", 0) * reference.get("latent_w", 0)
    return reference.get("latent_t", 1) * pixels // patch + 2 * reference.get("ref_audio_t", 0)


def modulate_(x: Tensor, shift: Tensor, factor: Tensor, segments: Segments) -> Tensor:
    """Return x · factor + shift of all tokens, written into `x [S, dim]`; shift, factor `[rows, dim]`."""
    for start, stop, row in segments:
        part = x[start:stop]
        torch.addcmul(shift[row], part, factor[row], out=part)
    return x


def selected_rows(segments: Segments, selection: Selection) -> Tensor:
    """Return the selected tokens' rows of the modulation, int64 `[M]`, without waiting for the device."""

    def select() -> Tensor:
        rows = torch.empty(selection.tokens, dtype=torch.int64, device=selection.indices.device)
        for start, stop, row in segments:
            rows[start:stop] = row
        return rows.index_select(0, selection.flat)

    return once_a_call(selection, "rows", segments, select)


class MiniMaxH3Runner:
    """Runs a DiTBlock, which takes and returns one tensor without a batch and writes into it."""

    in_place = True

    def __init__(self, slices: Slices | None = None):
        """slices: to compute only those parts of joint projections that are needed."""
        self._slices = slices

    def entry(self, call: BlockCall) -> Tensor:
        return BLOCK.named_arguments(call)["x"].unsqueeze(0)

    def exit(self, result: Any) -> Tensor:
        return result.unsqueeze(0)

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        return hidden.squeeze(0)

    def unsupported_reason(self, call: BlockCall) -> str:
        if reason := BLOCK.foreign_arguments(call):
            return reason
        block: Any = call.block
        if "forward" in vars(block.attn) or BLOCK.named_arguments(call).get("attention") is not None:
            return "another node has replaced its attention"
        return ""

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments = BLOCK.named_arguments(call)
        x, segments = arguments["x"], arguments["mod_segments"]
        modulation = (part.to(x.dtype) for part in block.adaln_proj(arguments["t_emb"]))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        y = modulate_(block.norm1(x), shift1, 1 + scale1, segments)
        q, k, v = self._project(block.attn, y, arguments["rope_freqs"], selection)
        del y
        mixed, lse = attend(q, k, v, need_lse=need_lse, **preferred_attention(block.attn))
        del q, k, v

        rows = selected_rows(segments, selection)
        change = block.attn.out_proj(mixed[0].flatten(1)) * gate1[rows]
        y = block.norm2(x.index_select(0, selection.flat) + change)
        y = block.mlp(torch.addcmul(shift2[rows], y, (1 + scale2)[rows]))
        residual = change.addcmul_(y, gate2[rows])
        return residual.unsqueeze(0), None if lse is None else lse.mean(1)

    def _project(self, attention: Any, y: Tensor, freqs: Tensor, selection: Selection) -> tuple[Tensor, Tensor, Tensor]:
        """Return q of the selected tokens `[1, M, H, D]`, and k and v of all, `[1, S, H, D]`, of `y [S, dim]`."""
        heads = (attention.heads, attention.head_dim)
        inner = attention.heads * attention.head_dim
        others, queries = slice(inner, 3 * inner), slice(0, inner)
        both, q = project(self._slices, attention.qkv_proj, y.unsqueeze(0), selection, others, queries)
        k, v = both.unflatten(-1, (2, *heads)).unbind(2)
        every, chosen = half_turns(freqs, selection)
        q = attention.q_norm(q.unflatten(-1, heads))
        return rotate_halves_(q, chosen), rotate_halves_(attention.k_norm(k), every), v
