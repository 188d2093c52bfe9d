"""HunyuanVideo 1 and 1.5, and what has the same network: SkyReels, Capybara, HunyuanImage.

Its blocks are those of `flux_blocks`, double ones, then single ones; 1.5 has double ones alone. In the joined stream
reference frames come right before the video's tokens, and the text before both or behind (see there); byt5 and image
embeddings count as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from ..engine.blocks.interface import TokenLayout, class_name, unwrap
from ..engine.planning.cost import BlockCost
from ..errors import UnsupportedBlocks
from .architecture import Architecture, Cast
from .block_code import require_attributes
from .flux_blocks import FluxRunner, check_blocks, inner_patches_reason, text_comes_first
from .linears import Slices

FAMILY = "hunyuan-video"
SUPPORTED = "HunyuanVideo 1 and 1.5"

# Models are the host's and known by their attributes only, hence Any.


def describe_model(model: Any, cast: Cast) -> Architecture | None:
    """Return the architecture of a HunyuanVideo, None for others. Raises UnsupportedBlocks for unknown blocks."""
    if class_name(model) != "HunyuanVideo" or not hasattr(model, "double_blocks"):
        return None
    check(model)
    text_first = text_comes_first(model.double_blocks[0])
    return Architecture(
        family=FAMILY,
        blocks=[*model.double_blocks, *model.single_blocks],
        runner=FluxRunner(text_first, cast.slices),
        layout=lambda shape, conditions: layout(model, text_first, shape, conditions),
        cost=lambda layout, context: cost(model, layout, cast.slices),
        dim=model.hidden_size,
        options_limit=inner_patches_reason,
    )


def check(model: Any) -> None:
    """Raise UnsupportedBlocks unless every block is one that `flux_blocks` knows."""
    require_attributes(model, "single_blocks", "patch_size", "hidden_size", "params")
    if not len(model.double_blocks):
        raise UnsupportedBlocks("without double blocks the order of its tokens is unknown")
    check_blocks(model.double_blocks, model.single_blocks)


def cost(model: Any, layout: TokenLayout, slices: Slices) -> BlockCost:
    """Return the sizes of an average block.

    Where parts of a fused layer cannot be computed alone, q is computed for all tokens, in single blocks the
    feed-forward, too.
    """
    dim, others = model.hidden_size, layout.total - layout.video
    hidden = int(dim * model.params.mlp_ratio)
    fused = [(unwrap(block).img_attn.qkv, dim) for block in model.double_blocks]
    fused += [(unwrap(block).linear1, dim + hidden) for block in model.single_blocks]
    widths = [0 if slices.possible(linear) else width for linear, width in fused]
    return BlockCost.mean([(1, BlockCost.of(layout.total, dim, hidden, 0, fused=w, others=others)) for w in widths])


def layout(model: Any, text_first: bool, shape: tuple[int, ...], conditions: Mapping[str, Any]) -> TokenLayout:
    """Return the layout of a call; the host pads latents to whole patches."""
    patch = model.patch_size

    def sides(latent: Sequence[int]) -> list[int]:
        return [-(-size // step) for size, step in zip(latent[-len(patch) :], patch, strict=True)]

    reference = conditions.get("ref_latent")
    embedded = [conditions.get("c_crossattn"), conditions.get("clip_fea")]
    if getattr(model, "byt5_in", None) is not None:
        embedded.append(conditions.get("txt_byt5"))
    text = sum(each.shape[1] for each in embedded if each is not None)
    references = 0 if reference is None else prod(sides(reference.shape))
    own = sides(shape)
    video, grid = prod(own), (1 if len(own) < 3 else own[0], own[-2], own[-1])
    if text_first:
        return TokenLayout(video=video, prefix=text + references, grid=grid)
    return TokenLayout(video=video, prefix=references, suffix=text, grid=grid)
