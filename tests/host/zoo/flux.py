"""Flux and its kin: Kontext, Flux 2, LongCat, Chroma; the image models of HunyuanVideo's network."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.ops
import torch

from .base import Sampled, ZooModel, empty_latent, known_fields, make_model, prompts, random, require_module
from .video import hunyuan_model

FLUX = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 24, "context_in_dim": 48, "hidden_size": 96}
FLUX |= {"mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 3, "axes_dim": [16, 16, 16]}
FLUX |= {"theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}
FLUX |= {"global_modulation": False, "mlp_silu_act": False, "ops_bias": True}


def flux_model(config: str, base_class: str, **sizes: Any) -> Any:
    import comfy.ldm.flux.model as host

    return make_model(config, base_class, **known_fields(host.FluxParams, FLUX | sizes))


def image(channels: int = 16, seed: int = 20, size: int = 8) -> torch.Tensor:
    return random(1, channels, size, size, seed=seed)


def flux(**extra: Any) -> Sampled:
    text = prompts(48, pooled=24, guidance=3.5, **extra)
    return Sampled(flux_model("Flux", "Flux"), **text, latent=empty_latent(1, 16, 8, 8))


def flux_kontext() -> Sampled:
    """Edits an image, whose tokens come after those of the new one."""
    return flux(reference_latents=[image()])


def flux_schnell() -> Sampled:
    model = flux_model("FluxSchnell", "Flux", guidance_embed=False)
    return Sampled(model, **prompts(48, pooled=24), latent=empty_latent(1, 16, 8, 8))


def flux_fill() -> Sampled:
    """The masked image and the mask, 64 values a place of the latent, in channels of their own."""
    mask = torch.ones(1, 1, 64, 64)
    mask[..., :32] = 0.0
    model = flux_model("FluxInpaint", "Flux", in_channels=96)
    text = prompts(48, pooled=24, guidance=30.0, concat_latent_image=image(), concat_mask=mask)
    return Sampled(model, **text, latent=empty_latent(1, 16, 8, 8))


def longcat() -> Sampled:
    model = flux_model("LongCatImage", "LongCatImage", vec_in_dim=None, guidance_embed=False, txt_ids_dims=[1, 2])
    return Sampled(model, **prompts(48), latent=empty_latent(1, 16, 8, 8))


def flux_2() -> Sampled:
    """One modulation for all blocks; the host fills the text up to 512 tokens."""
    sizes = {"in_channels": 128, "out_channels": 128, "axes_dim": [12] * 4, "theta": 2000, "patch_size": 1}
    sizes |= {"global_modulation": True, "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False}
    sizes |= {"vec_in_dim": None, "txt_ids_dims": [3], "default_ref_method": "index", "ref_index_scale": 10.0}
    model = flux_model("Flux2", "Flux2", **sizes)
    text = prompts(48, guidance=4.0, reference_latents=[image(128, size=4)])
    return Sampled(model, **text, latent=empty_latent(1, 128, 6, 6))


CHROMA = FLUX | {"in_dim": 64, "out_dim": 96, "hidden_dim": 32, "n_layers": 2, "vec_in_dim": None}


def chroma() -> Sampled:
    """A small network makes the modulation of all blocks."""
    import comfy.ldm.chroma.model as host

    sizes = CHROMA | {"in_channels": 64, "out_channels": 64}
    model = make_model("Chroma", "Chroma", **known_fields(host.ChromaParams, sizes))
    return Sampled(model, **prompts(48), latent=empty_latent(1, 16, 8, 8))


def chroma_radiance() -> Sampled:
    """Pixels: patches of 16 through the transformer, and each pixel through a network that they make."""
    host = require_module("comfy.ldm.chroma_radiance.model", "Chroma Radiance")
    sizes = CHROMA | {"in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 16}
    sizes |= {"nerf_mlp_ratio": 2, "nerf_depth": 1, "nerf_max_freqs": 4, "nerf_tile_size": 512}
    sizes |= {"nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32}
    sizes |= {"use_x0": False, "use_sequential_txt_ids": False}
    model = make_model("ChromaRadiance", "ChromaRadiance", **known_fields(host.ChromaRadianceParams, sizes))
    return Sampled(model, **prompts(48), latent=empty_latent(1, 3, 64, 64))


def hunyuan_image(meanflow: bool = False) -> Sampled:
    import comfy.ldm.hunyuan_video.model as host

    def narrow_glyphs(network: Any) -> None:
        settings = {"dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
        network.byt5_in = host.ByT5Mapper(24, 32, 32, 96, **settings)

    sizes = {"in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "axes_dim": [24, 24], "byt5": True}
    sizes |= {"vec_in_dim": None, "guidance_embed": meanflow, "meanflow": meanflow}
    model = hunyuan_model("HunyuanImage21", "HunyuanImage21", narrow_glyphs, **sizes)
    glyphs = {"conditioning_byt5small": random(1, 6, 24, seed=31)}
    return Sampled(model, **prompts(48, **glyphs), latent=empty_latent(1, 64, 8, 8))


def hunyuan_image_distilled() -> Sampled:
    """It is told the next step's time as well."""
    return hunyuan_image(meanflow=True)


def hunyuan_image_refiner(meanflow: bool = False) -> Sampled:
    sizes = {"in_channels": 128, "out_channels": 64, "patch_size": [1, 1, 1], "vec_in_dim": None}
    sizes |= {"guidance_embed": False, "meanflow": meanflow}
    model = hunyuan_model("HunyuanImage21Refiner", "HunyuanImage21Refiner", **sizes)
    pairs_frames = "process_in" in vars(comfy.latent_formats.HunyuanImage21Refiner)  # older hosts: their VAE does
    first = {"concat_latent_image": random(1, 32 if pairs_frames else 64, 1, 8, 8, seed=20)}
    return Sampled(model, **prompts(48, noise_augmentation=0.1, **first), latent=empty_latent(1, 32, 1, 8, 8))


def hunyuan_image_refiner_distilled() -> Sampled:
    return hunyuan_image_refiner(meanflow=True)


FLUXES = [
    ZooModel("Flux", "image", "Flux", flux),
    ZooModel("Flux Kontext", "image", "Flux", flux_kontext),
    ZooModel("Flux Schnell", "image", "Flux", flux_schnell),
    ZooModel("Flux Fill", "image", "Flux", flux_fill),
    ZooModel("LongCat-Image", "image", "LongCatImage", longcat),
    ZooModel("Flux 2", "image", "Flux2", flux_2),
    ZooModel("Chroma", "image", "Chroma", chroma),
    ZooModel("Chroma Radiance", "image", "ChromaRadiance", chroma_radiance),
    ZooModel("HunyuanImage 2.1", "image", "HunyuanImage21", hunyuan_image),
    ZooModel("HunyuanImage 2.1 distilled", "image", "HunyuanImage21", hunyuan_image_distilled),
    ZooModel("HunyuanImage 2.1 refiner", "image", "HunyuanImage21Refiner", hunyuan_image_refiner),
    ZooModel("HunyuanImage 2.1 refiner distilled", "image", "HunyuanImage21Refiner", hunyuan_image_refiner_distilled),
]
