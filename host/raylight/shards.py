"""Token steps where raylight divides the tokens: each GPU selects, computes and refits within its own part.

All parts are of one size, so the work is balanced by construction, and nothing is exchanged for it. Keys and values
come from all GPUs as in full steps, through raylight's own attention, which serves queries of another count than keys.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from types import MethodType
from typing import Any

from torch import Tensor

from ...engine.blocks.interface import Attend, BlockCall, TokenLayout
from ...engine.blocks.selection import Selection
from ...models import Architecture
from ...models.block_code import OneTensorBlocks
from ...models.wan import BLOCK, WanRunner, inner_patches
from .messages import Degrees

SHARED_WEIGHTS = "no token steps: they were not tried with raylight's shared weights (FSDP)"
DIVIDED_CONDITIONINGS = "no token steps: raylight's cfg_degree gives this GPU some of the conditionings"
WAN_ALONE = "no token steps: over several GPUs they are for Wan models"
TOKENS_AROUND = "no token steps: over several GPUs they need a clip without reference pictures or frames"
OTHER_ATTENTION = "its self-attention is not raylight's"
MODULE, FUNCTION, ATTENTION = "raylight.", "usp_self_attn_forward", "xfuser_optimized_attention"


def by_shard(architecture: Architecture, degrees: Degrees) -> Architecture:
    """Return the architecture for one GPU's part of the tokens; one of whole steps where the parts cannot be used."""
    if architecture.runner is None or degrees.gpus == degrees.data:
        return architecture
    if degrees.shared_weights:
        return _whole_steps(architecture, SHARED_WEIGHTS)
    if degrees.cfg > 1:
        return _whole_steps(architecture, DIVIDED_CONDITIONINGS)
    runner = architecture.runner
    if not isinstance(runner, WanRunner) or runner.code is not BLOCK:
        return _whole_steps(architecture, WAN_ALONE)

    def layout(shape: tuple[int, ...], conditions: Mapping[str, Any]) -> TokenLayout:
        whole = architecture.layout(shape, conditions)
        # raylight fills the last part up with zeros, which its blocks treat as tokens.
        return whole if _around(whole) else replace(whole, video=-(-whole.video // degrees.sequence), grid=None)

    return replace(
        architecture,
        runner=ShardedWanRunner(runner),
        layout=layout,
        layout_limit=lambda layout: TOKENS_AROUND if _around(layout) else "",
    )


def _whole_steps(architecture: Architecture, limit: str) -> Architecture:
    return replace(architecture, runner=None, blocks=(), limit=limit)


def _around(layout: TokenLayout) -> int:
    return layout.prefix + layout.suffix


class ShardedWanRunner(OneTensorBlocks):
    """Runs a WanAttentionBlock for selected tokens among one GPU's, as `WanRunner` does for all."""

    in_place = False

    def __init__(self, runner: WanRunner):
        self._runner = runner

    def unsupported_reason(self, call: BlockCall) -> str:
        if reason := BLOCK.foreign_arguments(call):
            return reason
        if _attention(call.block) is None:
            return OTHER_ATTENTION
        arguments = BLOCK.named_arguments(call)
        options, e = arguments.get("transformer_options") or {}, arguments["e"]
        if e.ndim == 4 and e.shape[1] > 1:
            return "its tokens have noise levels of their own"
        inside = inner_patches(options, BLOCK)
        return inside or ("another node patches inside it" if options.get("patches", {}).get("attn2_patch") else "")

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        return self._runner.forward_tokens(call, selection, _across(call.block))


def _attention(block: Any) -> Any:
    """Return raylight's attention over all GPUs, None where the block's self-attention is another one."""
    forward = vars(block.self_attn).get("forward")
    function: Any = forward.__func__ if isinstance(forward, MethodType) else None
    module = getattr(function, "__module__", "")
    if not module.startswith(MODULE) or function.__name__ != FUNCTION:
        return None
    return getattr(sys.modules.get(module), ATTENTION, None)


def _across(block: Any) -> Attend:
    attention, heads = _attention(block), block.self_attn.num_heads

    def attend(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> tuple[Tensor, None]:
        out = attention(q.flatten(2), k.flatten(2), v.flatten(2), heads=heads)
        return out.unflatten(2, q.shape[2:]), None

    return attend
