"""Cosmos-Predict2 (text to image, image to video) and Anima, which is made of the same blocks.

A block takes x `[B, T, H, W, dim]` and returns a new one. In this order it adds self-attention with rotary positions,
cross-attention with the text, and a feed-forward part; each has a layer norm without weights, and shift, scale and
gate made from the time. There is one time for all tokens or one per frame: emb `[B, 1 or T, dim]`, and adaln_lora
`[B, 1 or T, 3 * dim]`, which every part adds to its own shift, scale and gate. A position embedding
`[B, T, H, W, dim]`, where the model has one, is added to x before all that. rope `[1, N, 1, D/2, 2, 2]` turns channel
i of a head with channel i + D/2. In fp16 newer hosts keep x in fp32: a block computes in emb's dtype and adds up in
x's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..engine.blocks.interface import Attend, BlockCall, TokenLayout, class_name, unwrap
from ..engine.blocks.selection import Selection
from ..engine.planning.cost import BlockCost
from ..errors import UnsupportedBlocks
from .architecture import Architecture, Cast
from .block_code import BlockCode, require_attributes
from .preferred_attention import preferred_attention
from .rotary import half_turns, rotate_halves_

FAMILY = "cosmos-predict2"
SUPPORTED = "Cosmos-Predict2, Anima"
FAMILIES = {"MiniTrainDIT": FAMILY, "Anima": "anima"}
PARTS = ("self_attn", "cross_attn", "mlp")
BLOCK = BlockCode(
    class_name="Block",
    parts=(
        "use_adaln_lora",
        *(f"{kind}_{part}" for kind in ("layer_norm", "adaln_modulation") for part in PARTS),
        *(f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "v_norm")),
        *(f"self_attn.{part}" for part in ("output_proj", "output_dropout", "n_heads", "head_dim", "attn_op")),
        *("cross_attn.context_dim", "mlp.layer1.out_features"),
    ),
    arguments=(
        *("x_B_T_H_W_D", "emb_B_T_D", "crossattn_emb", "rope_emb_L_1_1_D", "adaln_lora_B_T_3D"),
        *("extra_per_block_pos_emb", "transformer_options"),
    ),
    leading=3,
)
INNER_PATCHES = ("attn1_patch", "attn2_patch", "mlp_patch")
ATTENTION_METHODS = ("forward", "compute_qkv", "compute_attention")
DEFAULT_CONTEXT = 512

# Models and blocks are the host's and known by their attributes only, hence Any.


def describe_model(model: Any, cast: Cast) -> Architecture | None:
    """Return the architecture of a Cosmos-Predict2 model or Anima, None for others.

    Raises UnsupportedBlocks for a variant that is not known.
    """
    if "MiniTrainDIT" not in {each.__name__ for each in type(model).__mro__}:
        return None
    check(model)
    return Architecture(
        family=FAMILIES[class_name(model)],
        blocks=model.blocks,
        runner=CosmosRunner(),
        layout=lambda shape, conditions: layout(model, shape, conditions),
        cost=lambda layout, context: cost(model, layout, context),
        dim=model.model_channels,
        hidden_dtype=lambda dtype: torch.float32 if dtype == torch.float16 else dtype,
    )


def check(model: Any) -> None:
    """Raise UnsupportedBlocks unless every block is one that this file knows."""
    name = class_name(model)
    if name not in FAMILIES:
        raise UnsupportedBlocks(f"the Cosmos-Predict2 variant {name} is not supported yet")
    require_attributes(model, "patch_spatial", "patch_temporal", "model_channels")
    for block in model.blocks:
        BLOCK.check(block)


def cost(model: Any, layout: TokenLayout, context: int | None) -> BlockCost:
    """Return the sizes of one block. Anima makes its text from another's and pads it to 512 tokens."""
    text = context or DEFAULT_CONTEXT
    if hasattr(model, "llm_adapter"):
        text = max(text, DEFAULT_CONTEXT)
    block, dim = unwrap(model.blocks[0]), model.model_channels
    counted = BlockCost.of(layout.total, dim, block.mlp.layer1.out_features, text, others=layout.total - layout.video)
    text_keys_and_values = 2 * text * block.cross_attn.context_dim * dim
    return replace(counted, always=counted.always + text_keys_and_values / layout.total)


def layout(model: Any, shape: tuple[int, ...], conditions: Mapping[str, Any]) -> TokenLayout:
    """Return the layout of a latent `[.., T, H, W]`; reference latents (`ref_latents`) are frames after the video's."""
    steps = (model.patch_temporal, model.patch_spatial, model.patch_spatial)
    frames, height, width = (-(-size // step) for size, step in zip(shape[-3:], steps, strict=True))
    references = conditions.get("ref_latents") or ()
    appended = sum(each.shape[2] if each.ndim > 4 else 1 for each in references)
    suffix = appended * height * width
    return TokenLayout(video=frames * height * width, suffix=suffix, grid=(frames, height, width))


class CosmosRunner:
    """Runs a block of Cosmos-Predict2, which takes and returns one tensor and leaves its input as it is."""

    in_place = False

    def entry(self, call: BlockCall) -> Tensor:
        return BLOCK.named_arguments(call)["x_B_T_H_W_D"].flatten(1, 3)

    def exit(self, result: Any) -> Tensor:
        return result.flatten(1, 3)

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        return hidden.unflatten(1, BLOCK.named_arguments(call)["x_B_T_H_W_D"].shape[1:4])

    def unsupported_reason(self, call: BlockCall) -> str:
        if reason := BLOCK.foreign_arguments(call):
            return reason
        block: Any = call.block
        attention = unwrap(block.self_attn)
        is_hosts = getattr(attention.attn_op, "__module__", "") == type(attention).__module__
        if not is_hosts or any(name in vars(attention) for name in ATTENTION_METHODS):
            return "another node has replaced its self-attention"
        patches = (BLOCK.named_arguments(call).get("transformer_options") or {}).get("patches", {})
        inside = [name for name in INNER_PATCHES if patches.get(name)]
        return f"another node patches inside it ({', '.join(inside)})" if inside else ""

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments = BLOCK.named_arguments(call)
        x, emb = arguments["x_B_T_H_W_D"], arguments["emb_B_T_D"]
        options, positions = arguments.get("transformer_options") or {}, arguments.get("extra_per_block_pos_emb")
        moved = x if positions is None else x + positions
        (shift, scale, gate), cross, feed = modulations(block, emb, arguments.get("adaln_lora_B_T_3D"), x.dtype)
        shift, scale = shift[:, :, None, None], scale[:, :, None, None]
        frame = selection.indices // (x.shape[2] * x.shape[3])

        y = torch.addcmul(shift, block.layer_norm_self_attn(moved), 1 + scale).to(emb.dtype).flatten(1, 3)
        q, k, v = self._projections(block.self_attn, y, arguments.get("rope_emb_L_1_1_D"), selection)
        mixed, lse = attend(q, k, v, need_lse=need_lse, **preferred_attention(block.self_attn))
        del q, k, v, y

        def modulated(norm: Any, rows: Tensor, part: tuple[Tensor, ...]) -> Tensor:
            shift, scale = (token_rows(each, frame) for each in part[:2])
            return torch.addcmul(shift, norm(rows), 1 + scale).to(emb.dtype)

        def added(rows: Tensor, result: Tensor, gate: Tensor) -> Tensor:
            return torch.addcmul(rows, token_rows(gate, frame), result.to(rows.dtype))

        rows = selection.gather(moved.flatten(1, 3))
        rows = added(rows, block.self_attn.output_dropout(block.self_attn.output_proj(mixed.flatten(2))), gate)
        y = modulated(block.layer_norm_cross_attn, rows, cross)
        rows = added(rows, block.cross_attn(y, arguments["crossattn_emb"], transformer_options=options), cross[2])
        rows = added(rows, block.mlp(modulated(block.layer_norm_mlp, rows, feed)), feed[2])
        return rows.sub_(selection.gather(x.flatten(1, 3))), None if lse is None else lse.mean(1)

    def _projections(
        self, attention: Any, y: Tensor, freqs: Tensor | None, selection: Selection
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries `[B, M, H, D]` of the selected tokens, and keys and values of all, from `y [B, N, dim]`."""
        heads = (attention.n_heads, attention.head_dim)
        k = attention.k_norm(attention.k_proj(y).unflatten(-1, heads))
        v = attention.v_norm(attention.v_proj(y).unflatten(-1, heads))
        q = attention.q_norm(attention.q_proj(selection.gather(y)).unflatten(-1, heads))
        if freqs is None:
            return q, k, v
        every, chosen = half_turns(freqs, selection)
        return rotate_halves_(q, chosen), rotate_halves_(k, every), v


def modulations(block: Any, emb: Tensor, lora: Tensor | None, dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
    """Return shift, scale and gate of self-attention, cross-attention and feed-forward, each `[B, 1 or T, dim]`."""
    own = (getattr(block, f"adaln_modulation_{part}")(emb) for part in PARTS)
    return [(each + lora if block.use_adaln_lora else each).to(dtype).chunk(3, dim=-1) for each in own]


def token_rows(part: Tensor, frame: Tensor) -> Tensor:
    """Return a modulation `[B, T, dim]` of tokens by their frames `[B, M]`, `[B, M, dim]`; as it is for T = 1."""
    if part.shape[1] == 1:
        return part
    return part.gather(1, frame.unsqueeze(-1).expand(-1, -1, part.shape[-1]))
