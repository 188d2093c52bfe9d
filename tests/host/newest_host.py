"""Stands for the newest ComfyUIs where a layer asks for an attention of its own, on any ComfyUI.

Written from how they behave: each attention layer has a `comfy_attention`, whose `function` is None unless the
checkpoint names one; it is passed on as `preferred_attention`, behind an override and before what ComfyUI started with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.ldm.wan.model as wan
import pytest
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from astraea.host.sampling import attention as tested
from astraea.host.sampling.attention import OVERRIDE

ATTENTION_CLASSES = ("WanSelfAttention", "WanT2VCrossAttention")


class OwnAttention(nn.Module):
    """The attention that a layer asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.function: Any = None


class NewestAttention:
    """`optimized_attention` of the newest ComfyUIs. calls: what computed each, with its numbers of queries and keys."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[tuple[str, int, int]] = []
        self._asking: list[Any] = []  # the layers that are running, innermost last
        for name in ATTENTION_CLASSES:
            layer = getattr(wan, name)
            monkeypatch.setattr(layer, "forward", self._passing_on(layer.forward))
        monkeypatch.setattr(wan, "optimized_attention", self._in_layer)
        monkeypatch.setattr(tested, "optimized_attention", self)

    def install(self, model: Any, blocks: Iterable[int]) -> None:
        """Give all layers of a MODEL the attribute, and those of some blocks an attention of their own."""
        diffusion_model, with_own = model.model.diffusion_model, set(blocks)
        for index, block in enumerate(diffusion_model.blocks):
            for layer in (block.self_attn, block.cross_attn):
                layer.comfy_attention = OwnAttention()
                layer.comfy_attention.function = self._own if index in with_own else None

    def __call__(
        self, q: Any, k: Any, v: Any, heads: int, *, preferred_attention: Any = None, **options: Any
    ) -> Tensor:
        override = (options.get("transformer_options") or {}).get(OVERRIDE)
        own = getattr(preferred_attention, "function", None)
        if override is not None:
            self._note("override", q, k)
            return override(optimized_attention, *map(_tensor, (q, k, v)), heads, **options)
        if own is not None:
            self._note("own", q, k)
            return own(q, k, v, heads, **options)
        self._note("host", q, k)
        return optimized_attention(q, k, v, heads, **options)

    def self_attention(self, tokens: int) -> list[tuple[str, int]]:
        """The backends that computed the self-attention of `tokens` tokens, with the number of queries."""
        return [(what, queries) for what, queries, keys in self.calls if keys == tokens]

    def _own(self, q: Any, k: Any, v: Any, heads: int, **options: Any) -> Tensor:
        return optimized_attention(q, k, v, heads, **options) * 0.75  # so that the result shows who computed it

    def _in_layer(self, *args: Any, **options: Any) -> Tensor:
        return self(*args, preferred_attention=getattr(self._asking[-1], "comfy_attention", None), **options)

    def _passing_on(self, forward: Any) -> Any:
        def passing_on(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
            self._asking.append(layer)
            try:
                return forward(layer, *args, **kwargs)
            finally:
                self._asking.pop()

        return passing_on

    def _note(self, what: str, q: Any, k: Any) -> None:
        self.calls.append((what, _tensor(q).shape[1], _tensor(k).shape[1]))


def _tensor(x: Any) -> Tensor:
    """The tensor itself, also of the containers that hosts pass since 0.31."""
    return x.peek() if hasattr(x, "peek") else x
