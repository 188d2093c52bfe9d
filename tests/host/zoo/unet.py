"""Models whose network is a U-Net: the Stable Diffusions and what was built on them, Stable Cascade."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .base import Sampled, ZooModel, empty_latent, make_model, prompt, prompts, random

UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1]}
UNET |= {"channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1]}
UNET |= {"transformer_depth_middle": 1, "context_dim": 48, "use_spatial_transformer": True, "legacy": False}
UNET |= {"num_head_channels": 16, "num_heads": -1}


def unet(config: str, base_class: str, state_dict: dict | None = None, adm: int = 0, **sizes: Any) -> Any:
    """`adm`: width of the vector that is added to the time embedding; 0: none."""
    vector = {"adm_in_channels": adm, "num_classes": "sequential"} if adm else {}
    return make_model(config, base_class, state_dict, **(UNET | vector | sizes))


def image(channels: int = 4, seed: int = 20, size: int = 8) -> torch.Tensor:
    return random(1, channels, size, size, seed=seed)


def stable_diffusion_15() -> Sampled:
    return Sampled(unet("SD15", "BaseModel"), **prompts(48), latent=empty_latent(1, 4, 8, 8))


def stable_diffusion_15_inpainting() -> Sampled:
    """Five more channels: the mask and the masked image, which the latent brings."""
    mask = torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0.0
    model = unet("SD15", "BaseModel", in_channels=9)
    return Sampled(model, **prompts(48), latent={"samples": image(), "noise_mask": mask})


def stable_diffusion_2() -> Sampled:
    """Predicts v, which the config tells by the spread of one bias."""
    sign = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}
    model = unet("SD20", "BaseModel", sign)
    assert model.model.model_type.name == "V_PREDICTION"
    return Sampled(model, **prompts(48), latent=empty_latent(1, 4, 8, 8))


def unclip() -> Sampled:
    """Stable Diffusion 2.1 that is shown an image: its embedding, noised, and how much it was noised."""
    vision = SimpleNamespace(image_embeds=random(1, 768, seed=30))
    shown = {"clip_vision_output": vision, "strength": 1.0, "noise_augmentation": 0.1}
    model = unet("SD21UnclipL", "SD21UNCLIP", adm=1536)
    positive, negative = prompt(48, unclip_conditioning=[shown]), prompt(48, 9, 2)
    return Sampled(model, positive, negative, empty_latent(1, 4, 8, 8))


def sdxl(config: str = "SDXL", base_class: str = "SDXL", state_dict: dict | None = None, **extra: Any) -> Sampled:
    channels = 8 if "concat_latent_image" in extra else 4
    model = unet(config, base_class, state_dict, adm=32 + 6 * 256, in_channels=channels)
    return Sampled(model, **prompts(48, pooled=32, width=64, height=64, **extra), latent=empty_latent(1, 4, 8, 8))


def sdxl_v_prediction() -> Sampled:
    return sdxl(state_dict={"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})


def sdxl_edm() -> Sampled:
    """Playground 2.5: continuous times, EDM's prediction."""
    return sdxl(state_dict={"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)})


def sdxl_refiner() -> Sampled:
    model = unet("SDXLRefiner", "SDXLRefiner", adm=32 + 5 * 256)
    return Sampled(model, **prompts(48, pooled=32), latent=empty_latent(1, 4, 8, 8))


def instruct_pix2pix() -> Sampled:
    model = unet("SD15_instructpix2pix", "SD15_instructpix2pix", in_channels=8)
    return Sampled(model, **prompts(48, concat_latent_image=image()), latent=empty_latent(1, 4, 8, 8))


def instruct_pix2pix_xl() -> Sampled:
    return sdxl("SDXL_instructpix2pix", "SDXL_instructpix2pix", concat_latent_image=image())


def upscaler() -> Sampled:
    """Four times larger: the small image in channels of its own, noised, and how much it was noised."""
    sizes = {"in_channels": 7, "num_classes": 1000, "disable_self_attentions": [True, False], "num_heads": 4}
    model = unet("SD_X4Upscaler", "SD_X4Upscaler", **sizes, num_head_channels=-1)
    text = prompts(48, concat_image=image(3), noise_augmentation=0.1)
    return Sampled(model, **text, latent=empty_latent(1, 4, 8, 8))


def lotus() -> Sampled:
    """From an image to its depth: the latent is the image."""
    return Sampled(unet("LotusD", "Lotus", adm=4), **prompts(48), latent={"samples": image()})


VIDEO = {
    "in_channels": 8,
    "use_temporal_attention": True,
    "use_temporal_resblock": True,
    "video_kernel_size": [3, 1, 1],
}
VIDEO |= {"extra_ff_mix_layer": True, "use_spatial_context": True, "merge_strategy": "learned_with_images"}


def frames_of_an_image(config: str, adm: int, **extra: Any) -> Sampled:
    """The frames are the batch; the image's embedding stands for a text, and the negative has neither."""
    model = unet(config, config, adm=adm, **VIDEO)
    positive = [[random(1, 1, 48, seed=31), {"concat_latent_image": image(), **extra}]]
    negative = [[torch.zeros(1, 1, 48), {"concat_latent_image": torch.zeros(1, 4, 8, 8), **extra}]]
    return Sampled(model, positive, negative, empty_latent(4, 4, 8, 8))


def stable_video_diffusion() -> Sampled:
    return frames_of_an_image("SVD_img2vid", 768, motion_bucket_id=127, fps=6, augmentation_level=0.0)


def sv3d_u() -> Sampled:
    return frames_of_an_image("SV3D_u", 256)


def sv3d_p() -> Sampled:
    views = {"elevation": [10.0] * 4, "azimuth": [0.0, 90.0, 180.0, 270.0]}
    return frames_of_an_image("SV3D_p", 1280, **views)


def zero123() -> Sampled:
    """The image's embedding with the camera's turn beside it, brought to the width of a text."""
    projection = {"cc_projection.weight": torch.zeros(768, 772), "cc_projection.bias": torch.zeros(768)}
    model = unet("Stable_Zero123", "Stable_Zero123", projection, in_channels=8, context_dim=768)
    positive = [[random(1, 1, 772, seed=31), {"concat_latent_image": image()}]]
    negative = [[torch.zeros(1, 1, 772), {"concat_latent_image": torch.zeros(1, 4, 8, 8)}]]
    return Sampled(model, positive, negative, empty_latent(1, 4, 8, 8))


def cascade_c() -> Sampled:
    sizes = {"c_cond": 64, "c_hidden": [64, 64], "nhead": [4, 4], "blocks": [[1, 1], [1, 1]]}
    sizes |= {"c_clip_text": 48, "c_clip_text_pooled": 32}
    model = make_model("Stable_Cascade_C", "StableCascade_C", **sizes)
    return Sampled(model, **prompts(48, pooled=32), latent=empty_latent(1, 16, 8, 8))


def cascade_b() -> Sampled:
    """What stage C made is enlarged and added."""
    sizes = {"c_cond": 64, "c_hidden": [32, 32, 64, 64], "nhead": [-1, -1, 4, 4], "blocks": [[1] * 4, [1] * 4]}
    sizes |= {"block_repeat": [[1] * 4, [1] * 4], "c_clip": 32}
    model = make_model("Stable_Cascade_B", "StableCascade_B", **sizes)
    text = prompts(48, pooled=32, stable_cascade_prior=image(16))
    return Sampled(model, **text, latent=empty_latent(1, 4, 16, 16))


UNETS = [
    ZooModel("Stable Diffusion 1.5", "image", "BaseModel", stable_diffusion_15),
    ZooModel("Stable Diffusion 1.5 inpainting", "image", "BaseModel", stable_diffusion_15_inpainting),
    ZooModel("Stable Diffusion 2 v-prediction", "image", "BaseModel", stable_diffusion_2),
    ZooModel("Stable Diffusion 2.1 unCLIP", "image", "SD21UNCLIP", unclip),
    ZooModel("SDXL", "image", "SDXL", sdxl),
    ZooModel("SDXL v-prediction", "image", "SDXL", sdxl_v_prediction),
    ZooModel("SDXL EDM (Playground 2.5)", "image", "SDXL", sdxl_edm),
    ZooModel("SDXL refiner", "image", "SDXLRefiner", sdxl_refiner),
    ZooModel("InstructPix2Pix", "image", "SD15_instructpix2pix", instruct_pix2pix),
    ZooModel("InstructPix2Pix XL", "image", "SDXL_instructpix2pix", instruct_pix2pix_xl),
    ZooModel("Stable Diffusion x4 upscaler", "image", "SD_X4Upscaler", upscaler),
    ZooModel("Lotus", "image", "Lotus", lotus),
    ZooModel("Stable Cascade C", "image", "StableCascade_C", cascade_c),
    ZooModel("Stable Cascade B", "image", "StableCascade_B", cascade_b),
    ZooModel("Stable Video Diffusion", "video", "SVD_img2vid", stable_video_diffusion),
    ZooModel("SV3D", "3d", "SV3D_u", sv3d_u),
    ZooModel("SV3D with camera", "3d", "SV3D_p", sv3d_p),
    ZooModel("Zero123", "3d", "Stable_Zero123", zero123),
]
