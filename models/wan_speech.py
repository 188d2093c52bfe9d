"""Attention to speech within Wan's blocks: a token hears what is spoken in its own frame, whatever the others do.

HuMo, a part of its blocks, after the attention to the text: `x + o(attention(q(norm(x)), k(speech), v(speech)))`, frame
by frame; x `[B, N, dim]`, speech `[B, F * 16, 1536]`, F frames of N / F tokens.
InfiniteTalk, a patch of ComfyUI's node at the same place of WanAttentionBlock: the same with a joint projection of keys
and values; speech `[1, F, A, C]` in the call's options. With two speakers another patch scales, over all tokens,
how much each resembles either of them: these blocks run in full.

For selected tokens, projections run for these alone. Their queries are put into otherwise empty frames: every frame
needs its own keys, and A of them for each of N tokens are next to nothing beside N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..engine.blocks.interface import Attend
from ..engine.blocks.selection import Selection
from ..errors import UnsupportedBlocks
from .block_code import BlockCode

HUMO_TOKENS = 16  # of speech, per frame
TALK_PATCH = "MultiTalkCrossAttnPatch"
TALK = BlockCode(
    class_name="SingleStreamMultiAttention",
    parts=("q_linear", "kv_linear", "proj", "num_heads", "head_dim"),
    arguments=("x", "encoder_hidden_states", "shape", "x_ref_attn_map"),
    leading=4,
)

# Blocks and patches are the host's and known by their attributes only, hence Any.


def hear(block: Any, rows: Tensor, speech: Tensor, selection: Selection, attend: Attend) -> Tensor:
    """Return the selected tokens `[B, M, dim]` after a HuMo block's attention to speech `[B, F * 16, 1536]`."""
    wrapper = block.audio_cross_attn_wrapper
    attention = wrapper.audio_cross_attn
    heads, frames = (attention.num_heads, attention.head_dim), speech.shape[1] // HUMO_TOKENS
    q = attention.norm_q(attention.q(wrapper.norm1_audio(rows)))
    k = attention.norm_k(attention.k(speech)).reshape(-1, HUMO_TOKENS, *heads)
    v = attention.v(speech).reshape(-1, HUMO_TOKENS, *heads)
    return rows + attention.o(_attend_in_frames(q, k, v, frames, selection, attend))


def hear_talk(patch: Any, rows: Tensor, options: Mapping[str, Any], selection: Selection, attend: Attend) -> Tensor:
    """Return the selected tokens `[B, M, dim]` after InfiniteTalk's patch. options: the call's transformer_options."""
    part = _talk_part(patch, options)
    attention, speech = part.audio_cross_attn, options["audio_embeds"].squeeze(0).to(rows)
    heads, (frames, words) = (attention.num_heads, attention.head_dim), speech.shape[:2]
    q = attention.q_linear(part.norm_x(rows))
    k, v = attention.kv_linear(speech).view(frames, words, 2, *heads).repeat(rows.shape[0], 1, 1, 1, 1).unbind(2)
    return rows + attention.proj(_attend_in_frames(q, k, v, frames, selection, attend)) * patch.audio_scale


def is_talk(patches: Sequence[Any]) -> bool:
    """Tell whether all of a block's patches behind the attention to the text are InfiniteTalk's."""
    return all(type(patch).__name__ == TALK_PATCH for patch in patches)


def talk_reason(patch: Any, options: Mapping[str, Any], tokens: int) -> str:
    """Return why InfiniteTalk's patch cannot run for a part of these tokens; "" if it can."""
    try:
        part = _talk_part(patch, options)
        TALK.check(part.audio_cross_attn)
        grid, frames = options["grid_sizes"], options["audio_embeds"].shape[-3]
    except (AttributeError, LookupError, TypeError, UnsupportedBlocks) as difference:
        return f"InfiniteTalk's code has changed: {difference}"
    if "forward" in vars(part.audio_cross_attn):
        return "another node has replaced its attention to speech"
    if options.get("x_ref_attn_map") is not None or tokens != prod(grid) or frames != grid[0]:
        return "its attention to speech needs all tokens"
    return ""


def _talk_part(patch: Any, options: Mapping[str, Any]) -> Any:
    return patch.model_patch.model.blocks[options["block_index"]]


def _attend_in_frames(q: Tensor, k: Tensor, v: Tensor, frames: int, selection: Selection, attend: Attend) -> Tensor:
    """Attend from selected tokens' q `[B, M, H * D]` to the k and v `[B * frames, A, H, D]` of their frames."""
    everywhere = torch.zeros((q.shape[0], selection.tokens, q.shape[-1]), dtype=q.dtype, device=q.device)
    selection.put(everywhere, q)
    in_frames = everywhere.view(q.shape[0] * frames, -1, *k.shape[2:])
    mixed, _ = attend(in_frames, k, v)
    return selection.gather(mixed.reshape(everywhere.shape))
