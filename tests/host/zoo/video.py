"""Video models, some with sound: MiniMax-H3, LTX, HunyuanVideo, Kandinsky, CogVideoX, Mochi, Cosmos, SeedVR2."""

from __future__ import annotations

from typing import Any

import comfy.ops
import torch

from .base import Sampled, ZooModel, empty_latent, known_fields, make_model, prompts, random, require_module


def known_first_frame(frames: int = 4) -> torch.Tensor:
    """A mask `[1, 1, T, 8, 8]`: 0 where the latent is given, 1 where it is made."""
    mask = torch.ones(1, 1, frames, 8, 8)
    mask[:, :, :1] = 0.0
    return mask


def two_streams(first: tuple[int, ...], second: tuple[int, ...]) -> dict:
    """A latent of two tensors that are sampled together, such as video and sound."""
    nested = require_module("comfy.nested_tensor", "model of two streams").NestedTensor
    return {"samples": nested([torch.zeros(first), torch.zeros(second)])}


def minimax_h3(sizes: dict | None = None, latent: dict | None = None, **extra: Any) -> Sampled:
    def keep_norms(network: Any) -> None:
        """As its checkpoints do: the host's norm of q and k takes no weights in fp8."""
        for block in network.blocks:
            for norm in (block.attn.q_norm, block.attn.k_norm):
                norm.weight.data = norm.weight.data.float() if norm.weight.itemsize < 2 else norm.weight.data

    small = {"hidden_size": 64, "num_layers": 4, "token_refiner_num_layers": 1, "num_attention_heads": 2}
    small |= {"attention_head_dim": 32, "ffn_hidden_size": 96, "text_dim": 48, "timestep_input_dim": 32}
    small |= {"time_embed_hidden_size": 48, "time_embed_dim": 48, "rope_inv_freq_len": 4}
    model = make_model("MiniMaxH3", "MiniMaxH3", shrink=keep_norms, **(small | (sizes or {})))
    return Sampled(model, **prompts(48, **extra), latent=latent or two_streams((1, 24, 4, 8, 8), (1, 32, 2, 12)))


def minimax_h3_keyframe() -> Sampled:
    """From an image: its rows come between the text's and the sound's."""
    return minimax_h3(minimax_keyframes=[{"latent": random(1, 24, 1, 8, 8, seed=20), "resolved_frame_index": 0}])


LTX = {"attention_head_dim": 32, "num_attention_heads": 2, "cross_attention_dim": 64, "num_layers": 4}


def ltxv(latent: dict | None = None) -> Sampled:
    model = make_model("LTXV", "LTXV", caption_channels=48, **LTX)
    return Sampled(model, **prompts(48, padding=3, frame_rate=25), latent=latent or empty_latent(1, 128, 4, 8, 8))


def ltxv_image() -> Sampled:
    """From an image, which is the first frame of the latent."""
    return ltxv({"samples": random(1, 128, 4, 8, 8, seed=20), "noise_mask": known_first_frame()})


LTXAV = LTX | {"audio_attention_head_dim": 16, "audio_num_attention_heads": 2, "audio_cross_attention_dim": 32}
LTXAV |= {"connector_num_layers": 1, "connector_num_attention_heads": 2}


def ltxav(width: int, **sizes: Any) -> Sampled:
    def without_registers(network: Any) -> None:
        """Which would fill every text up to 1024 tokens."""
        network.video_embeddings_connector.num_learnable_registers = 0
        network.audio_embeddings_connector.num_learnable_registers = 0

    model = make_model("LTXAV", "LTXAV", shrink=without_registers, **(LTXAV | sizes))
    text = prompts(width, (12, 12), frame_rate=25, unprocessed_ltxav_embeds=True)
    return Sampled(model, **text, latent=two_streams((1, 128, 4, 8, 8), (1, 8, 12, 16)))


def ltx_2() -> Sampled:
    return ltxav(48, caption_channels=48, connector_attention_head_dim=24)


def ltx_23() -> Sampled:
    """Gated attention, the text modulated by time, and a text projection before the connector."""
    flags = {"cross_attention_adaln": True, "apply_gated_attention": True, "connector_apply_gated_attention": True}
    flags |= {"caption_proj_before_connector": True, "caption_projection_first_linear": False}
    connectors = {"connector_attention_head_dim": 32, "audio_connector_attention_head_dim": 16}
    return ltxav(96, caption_channels=48, use_middle_indices_grid=True, **flags, **connectors)


HUNYUAN = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 24, "context_in_dim": 48, "hidden_size": 96}
HUNYUAN |= {"mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 3, "axes_dim": [16, 16, 16]}
HUNYUAN |= {"theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True, "guidance_embed": True, "byt5": False}
HUNYUAN |= {"meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}


def hunyuan_model(config: str, base_class: str, shrink: Any = None, **sizes: Any) -> Any:
    import comfy.ldm.hunyuan_video.model as host

    settings = known_fields(host.HunyuanVideoParams, HUNYUAN | sizes)
    return make_model(config, base_class, shrink=shrink, **settings)


def hunyuan_video() -> Sampled:
    model = hunyuan_model("HunyuanVideo", "HunyuanVideo")
    return Sampled(model, **prompts(48, pooled=24, guidance=6.0), latent=empty_latent(1, 16, 4, 8, 8))


def hunyuan_image_to_video() -> Sampled:
    """The image in channels of its own, and a mask."""
    model = hunyuan_model("HunyuanVideoI2V", "HunyuanVideoI2V", in_channels=33, guidance_embed=False)
    image = {"concat_latent_image": random(1, 16, 1, 8, 8, seed=20), "concat_mask": known_first_frame()}
    return Sampled(model, **prompts(48, pooled=24, **image), latent=empty_latent(1, 16, 4, 8, 8))


def hunyuan_replace() -> Sampled:
    """The image as first frame, at a time of its own."""
    model = hunyuan_model("HunyuanVideo", "HunyuanVideo")
    text = prompts(48, pooled=24, guidance=6.0, guiding_frame_index=0)
    latent = {"samples": random(1, 16, 4, 8, 8, seed=20), "noise_mask": known_first_frame()}
    return Sampled(model, **text, latent=latent)


def skyreels() -> Sampled:
    model = hunyuan_model("HunyuanVideoSkyreelsI2V", "HunyuanVideoSkyreelsI2V", in_channels=32)
    text = prompts(48, pooled=24, guidance=1.0, concat_latent_image=random(1, 16, 1, 8, 8, seed=20))
    return Sampled(model, **text, latent=empty_latent(1, 16, 4, 8, 8))


def hunyuan_15_model(config: str, base_class: str, **sizes: Any) -> Any:
    """Reads an image embedding (none: zeros), and marks each kind of condition by an embedding."""
    flags = {"vec_in_dim": None, "guidance_embed": False, "use_cond_type_embedding": True, "meanflow_sum": True}
    shape = {"out_channels": 32, "patch_size": [1, 1, 1], "vision_in_dim": 32}
    return hunyuan_model(config, base_class, **(flags | shape | sizes))


class ClipVision:
    """What a CLIP vision encoder gives."""

    def __init__(self, tokens: int, width: int):
        self.last_hidden_state = random(1, tokens, width, seed=30)


def hunyuan_15() -> Sampled:
    model = hunyuan_15_model("HunyuanVideo15", "HunyuanVideo15", in_channels=65)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 32, 4, 6, 6))


def hunyuan_15_image() -> Sampled:
    model = hunyuan_15_model("HunyuanVideo15", "HunyuanVideo15", in_channels=65)
    mask = torch.ones(1, 1, 4, 6, 6)
    mask[:, :, :1] = 0.0
    image = {"concat_latent_image": random(1, 32, 4, 6, 6, seed=20), "concat_mask": mask}
    text = prompts(48, clip_vision_output=ClipVision(20, 32), **image)
    return Sampled(model, **text, latent=empty_latent(1, 32, 4, 6, 6))


def hunyuan_15_upscaler() -> Sampled:
    """Distilled: it is told the next step's time as well."""
    config = "HunyuanVideo15_SR_Distilled"
    model = hunyuan_15_model(config, config, in_channels=98, meanflow=True)
    text = prompts(48, concat_latent_image=random(1, 66, 4, 6, 6, seed=20), noise_augmentation=0.7)
    return Sampled(model, **text, latent=empty_latent(1, 32, 4, 6, 6))


KANDINSKY = {"in_text_dim": 48, "in_text_dim2": 24, "time_dim": 48, "model_dim": 96, "ff_dim": 128}
KANDINSKY |= {"num_text_blocks": 1, "num_visual_blocks": 4, "axes_dims": (16, 16, 16)}


def kandinsky_5(**extra: Any) -> Sampled:
    model = make_model("Kandinsky5", "Kandinsky5", visual_embed_dim=132, **KANDINSKY)
    return Sampled(model, **prompts(48, pooled=24, **extra), latent=empty_latent(1, 16, 4, 8, 8))


def kandinsky_5_image_to_video() -> Sampled:
    return kandinsky_5(time_dim_replace=random(1, 16, 1, 8, 8, seed=20), concat_mask=known_first_frame())


COGVIDEO = {"num_attention_heads": 2, "attention_head_dim": 48, "time_embed_dim": 48, "text_embed_dim": 48}
COGVIDEO |= {"num_layers": 4, "sample_width": 8, "sample_height": 8, "sample_frames": 13, "max_text_seq_length": 12}


def cogvideo(config: str, extra: dict | None = None, lengths: tuple[int, int] = (12, 9), **sizes: Any) -> Sampled:
    model = make_model(config, "CogVideoX", **(COGVIDEO | sizes))
    shape = (1, 16, 8, 12, 12) if "patch_size_t" in sizes else (1, 16, 4, 8, 8)  # two frames of a latent are a token's
    return Sampled(model, **prompts(48, lengths, **(extra or {})), latent=empty_latent(*shape))


def cogvideo_2b() -> Sampled:
    """Positions are added to text and video at once: the text has one length."""
    return cogvideo("CogVideoX_T2V", lengths=(12, 12))


def cogvideo_5b_image() -> Sampled:
    image = {"concat_latent_image": random(1, 16, 1, 8, 8, seed=20)}
    return cogvideo("CogVideoX_I2V", image, in_channels=32, use_rotary_positional_embeddings=True)


def cogvideo_15_image() -> Sampled:
    image = {"concat_latent_image": random(1, 16, 1, 8, 8, seed=20)}
    sizes = {"patch_size_t": 2, "ofs_embed_dim": 48, "in_channels": 32, "use_rotary_positional_embeddings": True}
    return cogvideo("CogVideoX_I2V", image, **sizes)


def void() -> Sampled:
    """Takes things out of a video: the mask's and the masked video's latents besides."""
    video = {"concat_latent_image": random(1, 32, 4, 8, 8, seed=20)}
    sizes = {"patch_size_t": 2, "in_channels": 48, "use_rotary_positional_embeddings": True}
    return cogvideo("CogVideoX_Inpaint", video, **sizes)


def mochi() -> Sampled:
    import comfy.ldm.genmo.joint_model.asymm_models_joint as host

    def narrow_mlp(network: Any) -> None:
        settings = {"dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
        for block in network.blocks:
            block.mlp_x = host.FeedForward(64, 128, 32, None, **settings)

    sizes = {"depth": 4, "num_heads": 2, "hidden_size_x": 64, "hidden_size_y": 32, "mlp_ratio_x": 192.0}
    sizes |= {"mlp_ratio_y": 2.0, "learn_sigma": False, "in_channels": 12, "qk_norm": True, "qkv_bias": False}
    sizes |= {"out_bias": True, "attn_drop": 0.0, "use_t5": True, "t5_feat_dim": 48, "t5_token_length": 12}
    model = make_model("GenmoMochi", "GenmoMochi", shrink=narrow_mlp, patch_size=2, timestep_scale=1000.0, **sizes)
    return Sampled(model, **prompts(48, padding=2), latent=empty_latent(1, 12, 4, 8, 8))


COSMOS = {"max_img_h": 16, "max_img_w": 16, "max_frames": 16, "out_channels": 16, "patch_spatial": 2}
COSMOS |= {"patch_temporal": 1, "model_channels": 64, "num_blocks": 4, "num_heads": 2, "mlp_ratio": 2.0}
COSMOS |= {"crossattn_emb_channels": 48, "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 16}


def cosmos_1(config: str = "CosmosT2V", channels: int = 16, latent: dict | None = None) -> Sampled:
    sizes = {"block_x_format": "THWBD", "affline_emb_norm": True, "extra_per_block_abs_pos_emb": True}
    sizes |= {"extra_per_block_abs_pos_emb_type": "learnable", "in_channels": channels}
    model = make_model(config, "CosmosVideo", **(COSMOS | sizes))
    return Sampled(model, **prompts(48, frame_rate=24), latent=latent or empty_latent(1, 16, 4, 8, 8))


def cosmos_1_image() -> Sampled:
    latent = {"samples": random(1, 16, 4, 8, 8, seed=20), "noise_mask": known_first_frame()}
    return cosmos_1("CosmosI2V", 17, latent)


def cosmos_2_image_to_video() -> Sampled:
    """Known frames are at a time of their own."""
    sizes = {"in_channels": 17, "pos_emb_learnable": True, "rope_enable_fps_modulation": False}
    model = make_model("CosmosI2VPredict2", "CosmosPredict2", **(COSMOS | sizes))
    latent = {"samples": random(1, 16, 4, 8, 8, seed=20), "noise_mask": known_first_frame()}
    return Sampled(model, **prompts(48), latent=latent)


def cosmos_2_position_embedding() -> Sampled:
    """A learned position embedding is added before every block; no low-rank modulation besides."""
    sizes = {"in_channels": 16, "pos_emb_learnable": True, "rope_enable_fps_modulation": False}
    sizes |= {"extra_per_block_abs_pos_emb": True, "use_adaln_lora": False}
    model = make_model("CosmosT2IPredict2", "CosmosPredict2", **(COSMOS | sizes))
    return Sampled(model, **prompts(48), latent=empty_latent(1, 16, 4, 8, 8))


def seedvr2() -> Sampled:
    """Upscales a video; its two texts are fixed and come with the weights."""
    sizes = {"norm_eps": 1e-5, "num_layers": 4, "mlp_type": "swiglu", "vid_dim": 64, "heads": 2, "head_dim": 32}
    model = make_model("SeedVR2", "SeedVR2", rope_dim=32, mm_layers=2, vid_out_norm=True, **sizes)
    network = model.model.diffusion_model
    video = torch.cat([random(1, 16, 4, 8, 8, seed=20), torch.ones(1, 1, 4, 8, 8)], 1)
    positive = [[network.positive_conditioning[None], {"condition": video}]]
    negative = [[network.negative_conditioning[None], {"condition": video}]]
    return Sampled(model, positive, negative, empty_latent(1, 16, 4, 8, 8))


VIDEO = [
    ZooModel("MiniMax-H3", "video", "MiniMaxH3", minimax_h3),
    ZooModel("MiniMax-H3 image to video", "video", "MiniMaxH3", minimax_h3_keyframe),
    ZooModel("LTXV", "video", "LTXV", ltxv),
    ZooModel("LTXV image to video", "video", "LTXV", ltxv_image),
    ZooModel("LTX-2 audio+video", "video", "LTXAV", ltx_2),
    ZooModel("LTX-2.3 audio+video", "video", "LTXAV", ltx_23),
    ZooModel("HunyuanVideo", "video", "HunyuanVideo", hunyuan_video),
    ZooModel("HunyuanVideo image to video", "video", "HunyuanVideoI2V", hunyuan_image_to_video),
    ZooModel("HunyuanVideo image to video, replace", "video", "HunyuanVideo", hunyuan_replace),
    ZooModel("SkyReels image to video", "video", "HunyuanVideoSkyreelsI2V", skyreels),
    ZooModel("HunyuanVideo 1.5", "video", "HunyuanVideo15", hunyuan_15),
    ZooModel("HunyuanVideo 1.5 image to video", "video", "HunyuanVideo15", hunyuan_15_image),
    ZooModel("HunyuanVideo 1.5 upscaler", "video", "HunyuanVideo15_SR_Distilled", hunyuan_15_upscaler),
    ZooModel("Kandinsky 5", "video", "Kandinsky5", kandinsky_5),
    ZooModel("Kandinsky 5 image to video", "video", "Kandinsky5", kandinsky_5_image_to_video),
    ZooModel("CogVideoX 2B", "video", "CogVideoX", cogvideo_2b),
    ZooModel("CogVideoX 5B image to video", "video", "CogVideoX", cogvideo_5b_image),
    ZooModel("CogVideoX 1.5 image to video", "video", "CogVideoX", cogvideo_15_image),
    ZooModel("VOID", "video", "CogVideoX", void),
    ZooModel("Mochi", "video", "GenmoMochi", mochi),
    ZooModel("Cosmos 1", "video", "CosmosVideo", cosmos_1),
    ZooModel("Cosmos 1 image to video", "video", "CosmosVideo", cosmos_1_image),
    ZooModel("Cosmos-Predict2 image to video", "video", "CosmosPredict2", cosmos_2_image_to_video),
    ZooModel("Cosmos-Predict2 with position embedding", "video", "CosmosPredict2", cosmos_2_position_embedding),
    ZooModel("SeedVR2", "video", "SeedVR2", seedvr2),
]
