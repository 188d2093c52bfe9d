"""Models of sound: Stable Audio, ACE-Step, MiniMax-Music."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

import comfy.ldm.audio.embedders
import comfy.ops
import torch

from .base import Sampled, ZooModel, empty_latent, make_model, prompts, random, require_module


def embedder_weights(*names: str, **settings: Any) -> dict[str, torch.Tensor]:
    """The weights of embedders of seconds, as a checkpoint has them: these are not part of the network."""
    embedder = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, max_val=512, **settings)
    prefixes = [f"conditioner.conditioners.{name}." for name in names]
    return {prefix + name: weight for prefix in prefixes for name, weight in embedder.state_dict().items()}


def stable_audio() -> Sampled:
    """Texts are as wide as the embedded seconds, which come after the text's tokens."""
    sizes = {"audio_model": "dit1.0", "io_channels": 64, "embed_dim": 64, "num_heads": 2, "depth": 3}
    sizes |= {"project_cond_tokens": True, "global_cond_dim": 1536}
    weights = embedder_weights("seconds_start", "seconds_total")
    model = make_model("StableAudio", "StableAudio1", weights, **sizes)
    return Sampled(model, **prompts(768, seconds_start=0, seconds_total=5), latent=empty_latent(1, 64, 32))


def stable_audio_3() -> Sampled:
    """One modulation for all blocks; the known sound and its mask are added in every block."""
    sizes = {"audio_model": "dit1.0", "io_channels": 256, "embed_dim": 64, "num_heads": 2, "depth": 3}
    sizes |= {"project_cond_tokens": True, "global_cond_dim": 768, "timestep_features_type": "expo"}
    sizes |= {"global_cond_type": "adaLN", "local_add_cond_dim": 257, "num_memory_tokens": 2}
    sizes |= {"attn_kwargs": {"qk_norm": "rms", "differential": True}, "norm_type": "rms_norm"}
    require_module("comfy.text_encoders.sa3", "Stable Audio 3")
    weights = embedder_weights("seconds_total", fourier_features_type="expo")
    weights["conditioner.conditioners.prompt.padding_embedding"] = torch.zeros(768)
    model = make_model("StableAudio3", "StableAudio3", weights, **sizes)
    return Sampled(model, **prompts(768, seconds_total=5), latent=empty_latent(1, 256, 32))


def ace_step() -> Sampled:
    """Music of a description and of a song's words, which an encoder within the network reads."""
    import comfy.ldm.ace.model as host

    narrow = partial(host.LyricEncoder, output_size=32, attention_heads=2, linear_units=48, num_blocks=1)
    sizes = {"in_channels": 8, "num_layers": 3, "inner_dim": 64, "attention_head_dim": 32, "mlp_ratio": 2.0}
    sizes |= {"num_attention_heads": 2, "text_embedding_dim": 48, "lyric_encoder_vocab_size": 100}
    sizes |= {"lyric_hidden_size": 32, "max_width": 64, "ssl_latent_dims": [16, 16]}
    with patch.object(host, "LyricEncoder", narrow):
        model = make_model("ACEStep", "ACEStep", **sizes)

    def words(seed: int, length: int) -> dict:
        return {"conditioning_lyrics": (torch.arange(6) * 7 + seed)[None]}

    return Sampled(model, **prompts(48, each=words), latent=empty_latent(1, 8, 16, 32))


def ace_step_15() -> Sampled:
    """Music of a description, of words and of codes that a language model made."""
    sizes = {"hidden_size": 64, "num_dit_layers": 4, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32}
    sizes |= {"intermediate_size": 96, "text_hidden_dim": 48, "num_lyric_layers": 1, "num_timbre_layers": 1}
    sizes |= {"num_tokenizer_layers": 1, "fsq_dim": 64, "encoder_hidden_size": 64, "encoder_num_heads": 2}
    model = make_model("ACEStep15", "ACEStep15", encoder_intermediate_size=96, **sizes)

    def words_and_codes(seed: int, length: int) -> dict:
        return {"conditioning_lyrics": random(1, 6, 48, seed=30 + seed), "audio_codes": [[7 * seed] * 8]}

    return Sampled(model, **prompts(48, each=words_and_codes), latent=empty_latent(1, 64, 40))


def minimax_music() -> Sampled:
    """Follows eight layers of a language model that sings, frame by frame. Its constructor knows one size only."""
    host = require_module("comfy.ldm.minimax_music.dit", "MiniMax-Music 3")
    operations = comfy.ops.disable_weight_init
    settings = (torch.float32, None, operations)
    linear = partial(operations.Linear, dtype=torch.float32)
    convolution = partial(operations.Conv1d, dtype=torch.float32)

    def narrow(network: Any) -> None:
        network.latent_conditioners[0] = convolution(4096, 16, 3, padding=1)
        outer = network.diffusion_transformer
        outer.timestep_features = host.FourierFeatures(1, 32, torch.float32, None)
        outer.to_timestep_embed = torch.nn.Sequential(linear(32, 64), torch.nn.SiLU(), linear(64, 64))
        outer.preprocess_conv = convolution(272, 272, 1, bias=False)
        outer.postprocess_conv = convolution(128, 128, 1, bias=False)
        inner = outer.transformer
        inner.project_in, inner.project_out = linear(272, 64, bias=False), linear(64, 128, bias=False)
        inner.rotary_pos_emb = host.RotaryEmbedding(16, torch.float32, None)
        inner.layers = torch.nn.ModuleList([host.TransformerBlock(64, 32, 96, *settings) for _ in range(4)])

    model = make_model("MiniMaxMusic3", "MiniMaxMusic3", shrink=narrow, device="meta")
    text = prompts(8 * 4096, (8, 8), conditioning_scale=torch.ones(1, 1, 1))
    return Sampled(model, **text, latent=empty_latent(1, 128, host.latent_length(8)))


AUDIO = [
    ZooModel("Stable Audio", "audio", "StableAudio1", stable_audio),
    ZooModel("Stable Audio 3", "audio", "StableAudio3", stable_audio_3),
    ZooModel("ACE-Step", "audio", "ACEStep", ace_step),
    ZooModel("ACE-Step 1.5", "audio", "ACEStep15", ace_step_15),
    ZooModel("MiniMax-Music 3", "audio", "MiniMaxMusic3", minimax_music),
]
