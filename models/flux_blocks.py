"""The blocks of Flux as video models use them: DoubleStreamBlock and SingleStreamBlock, run for selected tokens.

Double blocks take and return two streams, img `[B, Ni, dim]` and txt `[B, Nt, dim]`, which attend jointly; single
blocks take and return the joined stream x `[B, Ni + Nt, dim]`, attention and feed-forward side by side. The joined
order is img, txt in blocks with the attribute `flipped_img_txt`, else txt, img. Blocks write into their input, except
the double blocks of older hosts.

Other arguments: vec `[B, dim]`, or `[B, 2, dim]` with spans (start, end, index) of tokens that take one of the two;
pe `[B, 1, N, D/2, 2, 2]` and attn_mask `[1, 1, N]`, added to the scores, both of the joined stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.blocks.interface import Attend, BlockCall, unwrap
from ..engine.blocks.selection import Selection
from ..errors import UnsupportedBlocks
from .block_code import BlockCode
from .linears import Slices, project
from .rotary import once_a_call, rotate, selected_positions

STREAM_PARTS = ("mod", "norm1", "attn.qkv", "attn.norm", "attn.proj", "norm2", "mlp")
DOUBLE = BlockCode(
    class_name="DoubleStreamBlock",
    parts=("num_heads", *(f"{stream}_{part}" for stream in ("img", "txt") for part in STREAM_PARTS)),
    arguments=(
        *("img", "txt", "vec", "pe", "attn_mask", "modulation_dims_img", "modulation_dims_txt"),
        "transformer_options",
    ),
    leading=4,
)
SINGLE = BlockCode(
    class_name="SingleStreamBlock",
    parts=("num_heads", "hidden_size", "pre_norm", "linear1", "linear2", "norm", "mlp_act", "modulation.lin"),
    arguments=("x", "vec", "pe", "attn_mask", "modulation_dims", "transformer_options"),
    leading=3,
)
INNER_PATCHES = ("attn1_patch", "attn1_output_patch")
FP16_MAX = torch.finfo(torch.float16).max

# Blocks are the host's and known by their attributes only, hence Any.


def check_blocks(double: Sequence[Any], single: Sequence[Any]) -> None:
    """Raise UnsupportedBlocks unless every block is one that this file knows, with a modulation of its own."""
    for block in double:
        DOUBLE.check(block)
    for block in single:
        SINGLE.check(block)
        if getattr(unwrap(block), "yak_mlp", False):
            raise UnsupportedBlocks("the feed-forward of its single blocks is not known")


def text_comes_first(double_block: Any) -> bool:
    """Return whether the text comes before the image where this host's blocks join them."""
    return not getattr(unwrap(double_block), "flipped_img_txt", False)


def inner_patches_reason(options: Mapping[str, Any]) -> str:
    """Return why other nodes' patches inside blocks keep these from running for selected tokens; "" without any."""
    patches = options.get("patches", {})
    inside = [name for name in INNER_PATCHES if patches.get(name)]
    return f"another node patches inside it ({', '.join(inside)})" if inside else ""


class FluxRunner:
    """Runs both kinds of blocks; hidden states are those of the joined stream, in the order of the host's attention."""

    in_place = True

    def __init__(self, text_first: bool, slices: Slices | None = None):
        """text_first: see `text_comes_first`; slices: to compute only those parts of fused layers that are needed."""
        self._text_first, self._slices = text_first, slices

    def entry(self, call: BlockCall) -> Tensor:
        code = _code(call.block)
        arguments = code.named_arguments(call)
        return arguments["x"] if code is SINGLE else self._join(arguments["img"], arguments["txt"])

    def exit(self, result: Any) -> Tensor:
        return result if isinstance(result, Tensor) else self._join(*result)

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        code = _code(call.block)
        if code is SINGLE:
            return finite(hidden)
        text = code.named_arguments(call)["txt"].shape[1]
        return hidden[:, self._image(hidden, text)], finite(hidden[:, self._text(hidden, text)])

    def unsupported_reason(self, call: BlockCall) -> str:
        code = _code(call.block)
        if reason := code.foreign_arguments(call):
            return reason
        return inner_patches_reason(code.named_arguments(call).get("transformer_options") or {})

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        run = self._single if _code(call.block) is SINGLE else self._double
        residual, lse = run(call, selection, attend, need_lse)
        return residual, None if lse is None else lse.mean(1)

    def _double(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments = DOUBLE.named_arguments(call)
        vec, text = arguments["vec"], arguments["txt"].shape[1]
        chosen = self._chosen_of_image(selection, text)
        img = _Stream(block, "img", arguments["img"], vec, arguments.get("modulation_dims_img"), chosen)
        txt = _Stream(block, "txt", arguments["txt"], vec, arguments.get("modulation_dims_txt"), None)
        streams = (stream.project(self._slices) for stream in (img, txt))
        q, k, v = (self._join(*both) for both in zip(*streams, strict=True))
        mixed, lse = _attend(q, k, v, arguments, selection, attend, need_lse)
        del q, k, v
        image = img.residual(mixed[:, self._image(mixed, text)])
        return self._join(image, finite(txt.residual(mixed[:, self._text(mixed, text)]))), lse

    def _single(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool
    ) -> tuple[Tensor, Tensor | None]:
        block: Any = call.block
        arguments = SINGLE.named_arguments(call)
        x, spans = arguments["x"], arguments.get("modulation_dims")
        modulation, _ = block.modulation(arguments["vec"])
        queries, others, rest = qkv_channels(block.hidden_size)
        y = modulate(block.pre_norm(x), modulation, span_index(spans, x, None))
        both, q, fed = project(self._slices, block.linear1, y, selection, others, queries, rest)
        del y
        q, k, v = _normed(block.norm, q, both, block.num_heads)
        mixed, lse = _attend(q, k, v, arguments, selection, attend, need_lse)
        del q, k, v, both
        rows = block.linear2(torch.cat((mixed.flatten(2), block.mlp_act(fed)), dim=2))
        return finite(rows * of_tokens(modulation.gate, span_index(spans, x, selection))), lse

    def _join(self, img: Tensor, txt: Tensor) -> Tensor:
        return torch.cat((txt, img) if self._text_first else (img, txt), dim=1)

    def _image(self, joined: Tensor, text: int) -> slice:
        return slice(text, None) if self._text_first else slice(joined.shape[1] - text)

    def _text(self, joined: Tensor, text: int) -> slice:
        return slice(text) if self._text_first else slice(joined.shape[1] - text, None)

    def _chosen_of_image(self, selection: Selection, text: int) -> Selection:
        """Return the selected tokens of img, counted within it. All of the text is selected."""

        def select() -> Selection:
            indices = selection.indices[:, self._image(selection.indices, text)]
            return Selection(indices - text if self._text_first else indices, selection.tokens - text)

        return once_a_call(selection, "image", selection.indices, select)


class _Stream:
    """One stream of a double block. x `[B, N, dim]`; chosen: the tokens that are computed, None for all."""

    def __init__(self, block: Any, name: str, x: Tensor, vec: Tensor, spans: Any, chosen: Selection | None):
        self._part = lambda part: getattr(block, f"{name}_{part}")
        self._heads, self._x, self._spans, self._chosen = block.num_heads, x, spans, chosen
        self._modulation = self._part("mod")(vec)

    def _rows(self, x: Tensor) -> Tensor:
        return x if self._chosen is None else self._chosen.gather(x)

    def project(self, slices: Slices | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q `[B, M, H, D]` of the chosen tokens, k and v `[B, N, H, D]` of all; no positions yet."""
        attention = self._part("attn")
        y = modulate(self._part("norm1")(self._x), self._modulation[0], span_index(self._spans, self._x, None))
        queries, others, _ = qkv_channels(y.shape[-1])
        both, q = project(slices, attention.qkv, y, self._chosen, others, queries)
        return _normed(attention.norm, q, both, self._heads)

    def residual(self, mixed: Tensor) -> Tensor:
        """Return the chosen tokens' residuals `[B, M, dim]` from their attention `[B, M, H, D]`."""
        first, second = self._modulation
        index = span_index(self._spans, self._x, self._chosen)
        attended = self._part("attn").proj(mixed.flatten(2)) * of_tokens(first.gate, index)
        rows = self._part("norm2")(self._rows(self._x) + attended)
        return attended.addcmul_(self._part("mlp")(modulate(rows, second, index)), of_tokens(second.gate, index))


def _code(block: Any) -> BlockCode:
    return DOUBLE if hasattr(block, "img_attn") else SINGLE


def qkv_channels(dim: int) -> tuple[slice, slice, slice]:
    """Return the output channels of a fused layer: those of q, of k and v, and the rest."""
    return slice(dim), slice(dim, 3 * dim), slice(3 * dim, None)


def _normed(norm: Any, q: Tensor, both: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q `[B, M, H, D]`, k and v `[B, N, H, D]` from q `[B, M, dim]` and k and v in one, `[B, N, 2 dim]`."""
    k, v = both.unflatten(-1, (2, heads, -1)).unbind(2)
    q, k = norm(q.unflatten(-1, (heads, -1)), k, v)
    return q, k, v


def _attend(
    q: Tensor, k: Tensor, v: Tensor, arguments: dict, selection: Selection, attend: Attend, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attend from the selected tokens q `[B, M, H, D]` to all of the joined stream, at their positions."""
    positions = once_a_call(selection, "positions", arguments["pe"], lambda: arguments["pe"].transpose(1, 2))
    q, k = rotate(q, selected_positions(positions, selection)), rotate(k, positions)
    return attend(q, k, v, need_lse=need_lse, mask=arguments.get("attn_mask"))


def span_index(spans: Sequence[tuple] | None, x: Tensor, selection: Selection | None) -> Tensor | None:
    """Return which modulation each token of `x [B, N, dim]` takes, `[1, N]` or of those selected `[B, M]`.

    spans: (start, end, index) of tokens; None: there is only one modulation, and the result is None.
    """
    if spans is None:
        return None
    index = torch.zeros(x.shape[1], dtype=torch.int64, device=x.device)
    for start, end, modulation in spans:
        index[start:end] = modulation
    return index.unsqueeze(0) if selection is None else index[selection.indices]


def of_tokens(part: Tensor, index: Tensor | None) -> Tensor:
    """Return a part of the modulation `[B, T, dim]` for each token by `index [1 or B, M]`; as it is for T = 1."""
    return part if index is None else part.gather(1, index.unsqueeze(-1).expand(part.shape[0], -1, part.shape[-1]))


def modulate(x: Tensor, modulation: Any, index: Tensor | None) -> Tensor:
    """Return x `[B, N, dim]` scaled and shifted as each token's modulation says."""
    return torch.addcmul(of_tokens(modulation.shift, index), x, 1 + of_tokens(modulation.scale, index))


def finite(x: Tensor) -> Tensor:
    """Return numbers that fp16 can hold, as the host does with the text and in single blocks."""
    return x.nan_to_num(nan=0.0, posinf=FP16_MAX, neginf=-FP16_MAX) if x.dtype == torch.float16 else x
