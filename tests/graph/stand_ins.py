"""Nodes for a test server: small random models, and what loads beside them, in place of downloaded files.

ComfyUI loads this file as a custom node. Each node takes the file name of the loader that it replaces. Models are of
the host's own classes and are detected by the host from their weights; text encoders, VAEs and the like are replaced
by the few attributes and methods that nodes call.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.clip_vision
import comfy.ops
import comfy.sd
import folder_paths
import nodes
import torch
from safetensors.torch import save_file
from torch import Tensor

DIM = 128  # width of all models, of one head where the host derives the number of heads from it
TEXT_TOKENS = 12
# By the beginning of file names.
TEXT_WIDTHS = {"umt5": 4096, "qwen3vl": 64, "qwen_2.5": 64, "gemma": 2 * DIM}
LTX_SIZES = {
    "num_layers": 2,
    "attention_head_dim": DIM // 32,
    "cross_attention_dim": DIM,
    "audio_attention_head_dim": DIM // 32,
    "audio_cross_attention_dim": DIM,
    "caption_channels": 64,
    "connector_num_attention_heads": 1,
    "connector_attention_head_dim": DIM,
    "connector_num_layers": 1,
    "caption_proj_before_connector": True,
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
}


def minimax_h3(**where: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    from comfy.ldm.minimax.model import MiniMaxH3Model

    sizes = {"hidden_size": DIM, "num_layers": 2, "token_refiner_num_layers": 1, "num_attention_heads": 1}
    more = {"ffn_hidden_size": DIM, "text_dim": TEXT_WIDTHS["qwen3vl"], "time_embed_hidden_size": 64}
    return MiniMaxH3Model(**sizes, **more, timestep_input_dim=64, time_embed_dim=64, **where), {}


def ltx(**where: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    from comfy.ldm.lightricks.av_model import LTXAVModel

    return LTXAVModel(**LTX_SIZES, **where), {"metadata": {"config": json.dumps({"transformer": LTX_SIZES})}}


def hunyuan(**where: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    sizes = {"in_channels": 65, "out_channels": 32, "hidden_size": DIM, "num_heads": 1, "depth": 2}
    inputs = {"context_in_dim": TEXT_WIDTHS["qwen_2.5"], "vec_in_dim": None, "vision_in_dim": 1152, "byt5": False}
    shape = {"depth_single_blocks": 0, "patch_size": [1, 1, 1], "axes_dim": [16, 56, 56], "theta": 256}
    kind = {"mlp_ratio": 4.0, "qkv_bias": True, "guidance_embed": False, "use_cond_type_embedding": True}
    return HunyuanVideo(**sizes, **inputs, **shape, **kind, meanflow=False, meanflow_sum=True, **where), {}


def wan(**where: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    from comfy.ldm.wan.model import WanModel

    return WanModel(dim=DIM, ffn_dim=2 * DIM, num_heads=1, num_layers=2, **where), {}


def wan_i2v(**where: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    return wan(model_type="i2v", in_dim=36, **where)


FAMILIES = {
    "minimax_h3": minimax_h3,
    "ltx-2.3": ltx,
    "hunyuanvideo1.5": hunyuan,
    "wan2.2_t2v": wan,
    "wan2.1_i2v": wan_i2v,
}


@dataclass(frozen=True)
class StandInClip:
    """A text encoder: random numbers that depend on the text."""

    width: int

    def tokenize(self, text: str, **_: Any) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str, **_: Any) -> list[list[Any]]:
        generator = torch.Generator().manual_seed(zlib.crc32(tokens.encode()))
        return [[torch.randn(1, TEXT_TOKENS, self.width, generator=generator), {"pooled_output": None}]]


@dataclass(frozen=True)
class StandInVAE:
    """A video VAE: shows latents in grey, a square of pixels for each. Refuses numbers that are not finite."""

    channels: int
    pixels: int
    frames: int

    @property
    def first_stage_model(self) -> SimpleNamespace:
        def same(latents: Tensor) -> Tensor:
            return latents

        return SimpleNamespace(per_channel_statistics=SimpleNamespace(normalize=same, un_normalize=same))

    def decode(self, latents: Tensor, **_: Any) -> Tensor:
        """Decode `[1, C, T, H, W]` to `[1, frames, height, width, 3]`. Raises ValueError for NaN and infinity."""
        if not latents.isfinite().all():
            raise ValueError("the latents are not finite")
        if latents.shape[1] != self.channels:
            raise ValueError(f"these latents are of another model: {list(latents.shape)}")
        grey = latents.mean(1).sigmoid()[..., None].expand(-1, -1, -1, -1, 3)
        grey = grey.repeat_interleave(self.pixels, 2).repeat_interleave(self.pixels, 3)
        return torch.cat([grey[:, :1], grey[:, 1:].repeat_interleave(self.frames, 1)], 1)

    def decode_tiled(self, latents: Tensor, **_: Any) -> Tensor:
        return self.decode(latents)

    def temporal_compression_decode(self) -> int:
        return self.frames

    def spacial_compression_decode(self) -> int:
        return self.pixels

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode `[frames, height, width, 3]` to `[1, C, T, H, W]`."""
        grey = pixels[:: self.frames, :: self.pixels, :: self.pixels].mean(-1)
        return grey[None, None].repeat(1, self.channels, 1, 1, 1)


class StandInAudioVAE:
    """An audio VAE: 100 samples for each latent, in stereo. Its sizes are LTX's; nodes of other models do not ask."""

    latent_channels = 8
    latent_frequency_bins = 16
    sample_rate = output_sample_rate = audio_sample_rate = 16000

    @property
    def first_stage_model(self) -> StandInAudioVAE:
        return self

    def num_of_latents_from_frames(self, frames: int, frame_rate: float) -> int:
        return round(25 * frames / frame_rate)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode to `[1, samples, 2]`, as the host's VAE does; `[1, 2, samples]` where hosts had a class of its own."""
        if not latents.isfinite().all():
            raise ValueError("the latents of the sound are not finite")
        length = latents.shape[2] if latents.shape[1] == self.latent_channels else latents.shape[-1]
        sound = torch.linspace(-0.1, 0.1, 100 * length)[None, :, None].repeat(1, 1, 2)
        return sound.movedim(-1, 1) if own_audio_class() else sound


def own_audio_class() -> bool:
    """Tell whether this host decodes LTX's sound with a class of its own instead of its VAE."""
    from comfy_extras import nodes_lt_audio

    return hasattr(nodes_lt_audio, "AudioVAE")


class StandInClipVision:
    def encode_image(self, image: Tensor, crop: bool = True) -> Any:
        output = comfy.clip_vision.Output()
        output.penultimate_hidden_states = torch.ones(1, 257, 1280) * image.mean()
        return output


def model(file: str) -> Any:
    """Load a small MODEL of the family of `file`, as the host loads a checkpoint."""
    build = next(each for beginning, each in FAMILIES.items() if file.startswith(beginning))
    module, more = build(dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    return comfy.sd.load_diffusion_model_state_dict(random_weights(module, file), **more)


def clip(file: str) -> StandInClip:
    return StandInClip(next(width for beginning, width in TEXT_WIDTHS.items() if file.startswith(beginning)))


def vae(file: str) -> Any:
    if "audio" in file:
        return StandInAudioVAE()
    sizes = {"minimax_h3": (24, 16, 4), "hunyuanvideo15": (32, 16, 4), "wan_2.1": (16, 8, 4), "ltx": (128, 32, 8)}
    return StandInVAE(*next(each for beginning, each in sizes.items() if file.startswith(beginning)))


def upscaler(file: str) -> Any:
    """Write a small checkpoint named `file` and load it with the host's own node."""
    from comfy.ldm.lightricks.latent_upsampler import LatentUpsampler

    sizes = {"in_channels": 128, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3}
    build = LatentUpsampler.from_config
    more = {"operations": comfy.ops.disable_weight_init} if "operations" in signature(build).parameters else {}
    weights = random_weights(build(sizes, **more), file)
    (folder, *_) = folder_paths.get_folder_paths("latent_upscale_models")
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(folder) / file, metadata={"config": json.dumps(sizes)})
    return nodes.NODE_CLASS_MAPPINGS["LatentUpscaleModelLoader"].execute(file).result[0]


def random_weights(module: torch.nn.Module, seed: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    return {
        name: 0.05 * torch.randn(tensor.shape, generator=generator) + ("norm" in name and name.endswith("weight"))
        for name, tensor in module.state_dict().items()
    }


def node(returns: tuple[str, ...], *make: Any) -> type:
    """A node that gives `make`'s results for a file."""

    class StandIn:
        RETURN_TYPES = returns
        FUNCTION = "load"
        CATEGORY = "tests"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"file": ("STRING", {})}}

        def load(self, file: str) -> tuple[Any, ...]:
            return tuple(each(file) for each in make)

    return StandIn


# By the name of the loader that is replaced.
NODE_CLASS_MAPPINGS = {
    "StandIn" + loader: kind
    for loader, kind in {
        "UNETLoader": node(("MODEL",), model),
        "CheckpointLoaderSimple": node(("MODEL", "CLIP", "VAE"), model, lambda file: None, vae),
        "CLIPLoader": node(("CLIP",), clip),
        "DualCLIPLoader": node(("CLIP",), clip),
        "LTXAVTextEncoderLoader": node(("CLIP",), clip),
        "VAELoader": node(("VAE",), vae),
        "LTXVAudioVAELoader": node(("VAE",), lambda file: StandInAudioVAE()),
        "CLIPVisionLoader": node(("CLIP_VISION",), lambda file: StandInClipVision()),
        "LatentUpscaleModelLoader": node(("LATENT_UPSCALE_MODEL",), upscaler),
    }.items()
}
