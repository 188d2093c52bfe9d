"""Other image models with a transformer."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from .base import Sampled, ZooModel, empty_latent, make_model, prompts, random, require_module
from .video import COSMOS, KANDINSKY


def image(channels: int = 16, seed: int = 20, size: int = 8) -> torch.Tensor:
    return random(1, channels, size, size, seed=seed)


def stable_diffusion_3(**sizes: Any) -> Sampled:
    text = {"target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 128}}
    sizes = {"pos_embed_max_size": 16, "num_patches": 256, "adm_in_channels": 24, "depth": 2, "mlp_ratio": 2.0} | sizes
    sizes |= {"input_size": None, "patch_size": 2, "in_channels": 16, "context_embedder_config": text}
    model = make_model("SD3", "SD3", **sizes)
    return Sampled(model, **prompts(48, pooled=24), latent=empty_latent(1, 16, 8, 8))


def stable_diffusion_35() -> Sampled:
    """Queries and keys are normed; the first block has a second attention over the image alone."""
    return stable_diffusion_3(qk_norm="rms", x_block_self_attn_layers=[0])


def aura_flow() -> Sampled:
    sizes = {"dim": 64, "n_layers": 4, "n_double_layers": 2, "n_heads": 2, "global_conddim": 64}
    model = make_model("AuraFlow", "AuraFlow", cond_seq_dim=48, max_seq=64, **sizes)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 4, 8, 8))


def hunyuan_dit() -> Sampled:
    """Two texts, each filled up to one length; half of the blocks take in what an earlier one made."""
    sizes = {"hidden_size": 64, "depth": 4, "num_heads": 2, "text_states_dim": 48, "text_states_dim_t5": 32}
    model = make_model("HunyuanDiT", "HunyuanDiT", text_len=12, text_len_t5=10, **sizes)

    def second(seed: int, length: int) -> dict:
        mask = (torch.arange(10) < 8)[None].long()
        return {"conditioning_mt5xl": random(1, 10, 32, seed=30 + seed), "attention_mask_mt5xl": mask}

    return Sampled(model, **prompts(48, (12, 12), padding=4, each=second), latent=empty_latent(1, 4, 8, 8))


PIXART = {"hidden_size": 96, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0, "caption_channels": 48}
PIXART |= {"input_size": 64, "patch_size": 2, "in_channels": 4, "model_max_length": 12, "pe_interpolation": 1}


PIXART_SIZE = (34, 36)  # positions are spread over multiples of 64: smaller ones would all be 0


def pixart_alpha() -> Sampled:
    """Size and shape of the picture are added to the time embedding."""
    model = make_model("PixArtAlpha", "PixArt", micro_condition=True, **PIXART)
    return Sampled(model, **prompts(48, width=64, height=64), latent=empty_latent(1, 4, *PIXART_SIZE))


def pixart_sigma() -> Sampled:
    model = make_model("PixArtSigma", "PixArt", micro_condition=False, **PIXART)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 4, *PIXART_SIZE))


LUMINA = {"patch_size": 2, "in_channels": 16, "dim": 96, "n_layers": 3, "n_refiner_layers": 1, "n_heads": 2}
LUMINA |= {"n_kv_heads": 1, "multiple_of": 32, "ffn_dim_multiplier": 1.0, "qk_norm": True, "cap_feat_dim": 48}
LUMINA |= {"axes_dims": [16, 16, 16], "axes_lens": [64, 64, 64]}


def lumina_2() -> Sampled:
    model = make_model("Lumina2", "Lumina2", **LUMINA)
    return Sampled(model, **prompts(48, padding=0), latent=empty_latent(1, 16, 8, 8))


Z_IMAGE = LUMINA | {"dim": 256, "n_heads": 4, "axes_dims": [16, 24, 24], "n_kv_heads": 4}
Z_IMAGE |= {"z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32}


def z_image() -> Sampled:
    """Text and image are filled up to a multiple of 32 tokens."""
    require_module("comfy.text_encoders.z_image", "Z-Image")
    model = make_model("ZImage", "Lumina2", **Z_IMAGE)
    return Sampled(model, **prompts(48, padding=0), latent=empty_latent(1, 16, 8, 8))


def z_image_pixels() -> Sampled:
    sizes = Z_IMAGE | {"patch_size": 8, "in_channels": 3, "decoder_in_channels": 192}
    sizes |= {"decoder_hidden_size": 64, "decoder_num_res_blocks": 1, "decoder_max_freqs": 4, "use_x0": True}
    model = make_model("ZImagePixelSpace", "ZImagePixelSpace", **sizes)
    return Sampled(model, **prompts(48, padding=0), latent=empty_latent(1, 3, 64, 64))


PIXELDIT = {"num_groups": 2, "hidden_size": 64, "pixel_hidden_size": 16, "pixel_attn_hidden_size": 32}
PIXELDIT |= {"pixel_num_groups": 2, "patch_depth": 4, "pixel_depth": 1, "txt_embed_dim": 48, "txt_max_length": 16}


def pixeldit() -> Sampled:
    model = make_model("PixelDiTT2I", "PixelDiTT2I", **PIXELDIT)
    return Sampled(model, **prompts(48, padding=0), latent=empty_latent(1, 3, 64, 64))


def pid() -> Sampled:
    """Makes pixels of a latent: the latent is added before every other block."""
    model = make_model("PiD", "PiD", lq_hidden_dim=16, lq_num_res_blocks=1, **PIXELDIT)
    given = {"lq_latent": image(size=2), "degrade_sigma": torch.tensor([0.1])}
    return Sampled(model, **prompts(48, padding=0, **given), latent=empty_latent(1, 3, 64, 64))


def hidream() -> Sampled:
    """Two texts; every block has the second from another layer of its encoder. Experts in the MLPs."""
    sizes = {"attention_head_dim": 32, "num_attention_heads": 2, "axes_dims_rope": [16, 8, 8], "patch_size": 2}
    sizes |= {"caption_channels": [48, 32], "text_emb_dim": 24, "num_layers": 2, "num_single_layers": 2}
    sizes |= {"in_channels": 16, "out_channels": 16, "llama_layers": [0, 1, 2, 2], "max_resolution": [16, 16]}
    model = make_model("HiDream", "HiDream", **sizes)

    def second(seed: int, length: int) -> dict:
        return {"conditioning_llama3": random(1, 3, length, 32, seed=30 + seed)}

    return Sampled(model, **prompts(48, pooled=24, each=second), latent=empty_latent(1, 16, 8, 8))


def hidream_o1() -> Sampled:
    """A language model over the prompt's token numbers and the pixels, in patches of 32."""
    host = require_module("comfy.ldm.hidream_o1.model", "HiDream-O1")
    language = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
    language |= {"num_key_value_heads": 1, "head_dim": 32, "rope_dims": [6, 5, 5]}
    vision = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "depth": 1, "num_position_embeddings": 16}
    model = make_model("HiDreamO1", "HiDreamO1", text_config_overrides=language, vision_config_overrides=vision)

    def tokens(seed: int, length: int) -> dict:
        numbers = [1000 * seed + place for place in range(length - 1)]
        return {"text_input_ids": torch.tensor([numbers + [host.TMS_TOKEN_ID]])}

    return Sampled(model, **prompts(1, each=tokens), latent=empty_latent(1, 3, 128, 128))


OMNIGEN = {"hidden_size": 96, "num_layers": 3, "num_refiner_layers": 1, "num_attention_heads": 2}
OMNIGEN |= {"num_kv_heads": 1, "multiple_of": 32, "axes_dim_rope": [16, 16, 16], "axes_lens": [64, 64, 64]}


def omnigen_2() -> Sampled:
    """Edits an image: its tokens between the text's and the new image's."""
    model = make_model("Omnigen2", "Omnigen2", text_feat_dim=48, timestep_scale=1000.0, **OMNIGEN)
    text = prompts(48, padding=0, reference_latents=[image()])
    return Sampled(model, **text, latent=empty_latent(1, 16, 8, 8))


def boogu() -> Sampled:
    model = make_model("Boogu", "Boogu", num_double_stream_layers=1, instruction_feat_dim=48, **OMNIGEN)
    text = prompts(48, padding=0, reference_latents=[image()])
    return Sampled(model, **text, latent=empty_latent(1, 16, 8, 8))


STREAMS = {"num_layers": 4, "attention_head_dim": 48, "num_attention_heads": 2, "axes_dims_rope": (16, 16, 16)}


def qwen_image(**extra: Any) -> Sampled:
    model = make_model("QwenImage", "QwenImage", in_channels=64, out_channels=16, joint_attention_dim=48, **STREAMS)
    return Sampled(model, **prompts(48, **extra), latent=empty_latent(1, 16, 1, 8, 8))


def qwen_image_edit() -> Sampled:
    return qwen_image(reference_latents=[random(1, 16, 1, 8, 8, seed=20)])


def mage_flow() -> Sampled:
    model = make_model("MageFlow", "MageFlow", joint_attention_dim=48, **STREAMS)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 128, 8, 8))


def lens() -> Sampled:
    """The text of two layers of its encoder, side by side."""
    model = make_model("Lens", "Lens", enc_hidden_dim=24, selected_layer_index=(0, 1), **STREAMS)
    return Sampled(model, **prompts(48, padding=2), latent=empty_latent(1, 128, 8, 8))


def joy_image() -> Sampled:
    """Edits an image: its tokens come after those of the new one."""
    sizes = {"hidden_size": 96, "num_attention_heads": 2, "num_layers": 4, "rope_dim_list": [16, 16, 16]}
    model = make_model("JoyImage", "JoyImage", text_dim=48, mlp_width_ratio=2.0, **sizes)
    text = prompts(48, reference_latents=[random(1, 16, 1, 8, 8, seed=20)])
    return Sampled(model, **text, latent=empty_latent(1, 16, 1, 8, 8))


def ideogram_4() -> Sampled:
    sizes = {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 32, "intermediate_size": 96}
    sizes |= {"adaln_dim": 32, "llm_features_dim": 48, "mrope_section": (6, 5, 5)}
    model = make_model("Ideogram4", "Ideogram4", **sizes)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 128, 8, 8))


def krea_2() -> Sampled:
    """A small transformer makes one text of those of two layers of its encoder."""
    sizes = {"features": 64, "tdim": 32, "txtdim": 24, "heads": 2, "kvheads": 1, "multiplier": 2, "layers": 4}
    model = make_model("Krea2", "Krea2", txtlayers=2, txtheads=2, txtkvheads=2, **sizes)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 16, 1, 8, 8))


def ernie_image() -> Sampled:
    sizes = {"hidden_size": 96, "num_attention_heads": 2, "num_layers": 4, "ffn_hidden_size": 128}
    model = make_model("ErnieImage", "ErnieImage", text_in_dim=48, rope_axes_dim=(16, 16, 16), **sizes)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 128, 8, 8))


def kandinsky_5_image() -> Sampled:
    shape = {"visual_embed_dim": 64, "rope_scale_factor": (1.0, 1.0, 1.0)}
    model = make_model("Kandinsky5Image", "Kandinsky5Image", **(KANDINSKY | shape))
    return Sampled(model, **prompts(48, pooled=24), latent=empty_latent(1, 16, 16, 16))


PREDICT = COSMOS | {"in_channels": 16, "pos_emb_learnable": True, "rope_enable_fps_modulation": False}


def cosmos_predict_2() -> Sampled:
    model = make_model("CosmosT2IPredict2", "CosmosPredict2", **PREDICT)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 16, 1, 16, 16))


def anima() -> Sampled:
    """Cosmos-Predict2 whose text is a second encoder's tokens, looked at through an adapter."""
    host = require_module("comfy.ldm.anima.model", "Anima")
    adapter = partial(host.LLMAdapter, source_dim=48, target_dim=48, model_dim=48, num_layers=1, num_heads=2)
    with patch.object(host, "LLMAdapter", adapter):
        model = make_model("Anima", "Anima", **PREDICT)

    def tokens(seed: int, length: int) -> dict:
        return {"t5xxl_ids": torch.arange(length, dtype=torch.int) + 1000 * seed, "t5xxl_weights": torch.ones(length)}

    return Sampled(model, **prompts(48, each=tokens), latent=empty_latent(1, 16, 1, 16, 16))


IMAGES = [
    ZooModel("Stable Diffusion 3", "image", "SD3", stable_diffusion_3),
    ZooModel("Stable Diffusion 3.5", "image", "SD3", stable_diffusion_35),
    ZooModel("AuraFlow", "image", "AuraFlow", aura_flow),
    ZooModel("HunyuanDiT", "image", "HunyuanDiT", hunyuan_dit),
    ZooModel("PixArt alpha", "image", "PixArt", pixart_alpha),
    ZooModel("PixArt sigma", "image", "PixArt", pixart_sigma),
    ZooModel("Lumina 2", "image", "Lumina2", lumina_2),
    ZooModel("Z-Image", "image", "Lumina2", z_image),
    ZooModel("Z-Image pixel space", "image", "ZImagePixelSpace", z_image_pixels),
    ZooModel("PixelDiT", "image", "PixelDiTT2I", pixeldit),
    ZooModel("PiD", "image", "PiD", pid),
    ZooModel("HiDream", "image", "HiDream", hidream),
    ZooModel("HiDream-O1", "image", "HiDreamO1", hidream_o1),
    ZooModel("OmniGen 2", "image", "Omnigen2", omnigen_2),
    ZooModel("Boogu", "image", "Boogu", boogu),
    ZooModel("Qwen Image", "image", "QwenImage", qwen_image),
    ZooModel("Qwen Image Edit", "image", "QwenImage", qwen_image_edit),
    ZooModel("Mage-Flow", "image", "MageFlow", mage_flow),
    ZooModel("Lens", "image", "Lens", lens),
    ZooModel("JoyImage", "image", "JoyImage", joy_image),
    ZooModel("Ideogram 4", "image", "Ideogram4", ideogram_4),
    ZooModel("Krea 2", "image", "Krea2", krea_2),
    ZooModel("ERNIE-Image", "image", "ErnieImage", ernie_image),
    ZooModel("Kandinsky 5 image", "image", "Kandinsky5Image", kandinsky_5_image),
    ZooModel("Cosmos-Predict2", "image", "CosmosPredict2", cosmos_predict_2),
    ZooModel("Anima", "image", "Anima", anima),
]
