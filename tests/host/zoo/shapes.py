"""Models of things in space, from an image of them."""

from __future__ import annotations

from typing import Any

import torch

from .base import Sampled, ZooModel, empty_latent, make_model, random
from .video import two_streams


def seen(width: int, tokens: int = 12, **extra: Any) -> dict:
    """An image's embedding; the negative has seen nothing."""
    embedding = random(1, tokens, width, seed=31) + random(1, 1, width, seed=32)
    return {"positive": [[embedding, extra]], "negative": [[torch.zeros_like(embedding), extra]]}


def hunyuan_3d(guidance_embed: bool = False) -> Sampled:
    sizes = {"in_channels": 64, "context_in_dim": 48, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2}
    sizes |= {"depth": 2, "depth_single_blocks": 2, "guidance_embed": guidance_embed}
    return Sampled(make_model("Hunyuan3Dv2", "Hunyuan3Dv2", **sizes), **seen(48), latent=empty_latent(1, 64, 48))


def hunyuan_3d_turbo() -> Sampled:
    """Distilled: guidance is an input."""
    return hunyuan_3d(guidance_embed=True)


def hunyuan_3d_21() -> Sampled:
    """Half of the blocks take in what an earlier one made; experts in the MLP of the last."""
    sizes = {"hidden_size": 64, "context_dim": 48, "depth": 5, "num_heads": 2, "num_moe_layers": 1}
    sizes |= {"num_experts": 3, "guidance_cond_proj_dim": None}
    model = make_model("Hunyuan3Dv2_1", "Hunyuan3Dv2_1", **sizes)
    return Sampled(model, **seen(48), latent=empty_latent(1, 64, 48))


def triposplat() -> Sampled:
    """The thing and the camera are two streams."""
    sizes = {"q_token_length": 48, "model_channels": 64, "cond_channels": 48, "num_blocks": 3}
    sizes |= {"num_refiner_blocks": 1, "num_head_channels": 32, "cond2_channels": 16}
    model = make_model("TripoSplat", "TripoSplat", **sizes)
    conditionings = seen(48, 9)
    conditionings["positive"][0][1] = {"reference_latents": [random(1, 16, 2, 2, seed=20)]}
    conditionings["negative"][0][1] = {"reference_latents": [torch.zeros(1, 16, 2, 2)]}
    return Sampled(model, **conditionings, latent=two_streams((1, 48, 16), (1, 1, 5)))


def trellis(mode: str, **sizes: Any) -> Sampled:
    """Made at 40 places of a grid alone."""
    sizes |= {"resolution": 32, "model_channels": 64, "cond_channels": 48, "num_blocks": 3, "num_heads": 2}
    model = make_model("Trellis2", "Trellis2", mlp_ratio=2.0, **sizes)
    places = torch.stack([torch.zeros(40), *torch.arange(120).reshape(3, 40).remainder(32)], 1).int()
    stage = {"trellis2_generation_mode": mode, "trellis2_coords": places, "trellis2_coord_counts": torch.tensor([40])}
    if mode == "texture_generation":
        stage["trellis2_shape_slat"] = random(40, 32, seed=33)
    conditionings = seen(48)
    for conditioning in conditionings.values():
        conditioning[0][1] = stage | {"embeds": conditioning[0][0].clone()}
    return Sampled(model, **conditionings, latent=empty_latent(1, 32, 40, 1))


def trellis_shape() -> Sampled:
    return trellis("shape_generation")


def trellis_texture() -> Sampled:
    """The shape is part of the input."""
    return trellis("texture_generation", init_txt_model=True, txt_only=True)


SHAPES = [
    ZooModel("Hunyuan3D 2", "3d", "Hunyuan3Dv2", hunyuan_3d),
    ZooModel("Hunyuan3D 2 turbo", "3d", "Hunyuan3Dv2", hunyuan_3d_turbo),
    ZooModel("Hunyuan3D 2.1", "3d", "Hunyuan3Dv2_1", hunyuan_3d_21),
    ZooModel("TripoSplat", "3d", "TripoSplat", triposplat),
    ZooModel("Trellis 2 shape", "3d", "Trellis2", trellis_shape),
    ZooModel("Trellis 2 texture", "3d", "Trellis2", trellis_texture),
]
