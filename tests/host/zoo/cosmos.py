"""Cosmos-Predict2 without an image, and Anima, which is made of its blocks."""

from __future__ import annotations

from functools import partial
from unittest import mock

import torch

from .base import Sampled, ZooModel, empty_latent, make_model, prompts, require_module
from .video import COSMOS

SIZES = COSMOS | {"in_channels": 16, "pos_emb_learnable": True, "rope_enable_fps_modulation": False}


def text_to_image() -> Sampled:
    model = make_model("CosmosT2IPredict2", "CosmosPredict2", **SIZES)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 16, 1, 16, 16))


def with_position_embedding() -> Sampled:
    """A learned position embedding is added before every block; no low-rank modulation besides."""
    sizes = SIZES | {"extra_per_block_abs_pos_emb": True, "use_adaln_lora": False}
    model = make_model("CosmosT2IPredict2", "CosmosPredict2", **sizes)
    return Sampled(model, **prompts(48), latent=empty_latent(1, 16, 4, 8, 8))


def anima() -> Sampled:
    """Its text is made from another's by a model of its own, which pads it to 512 tokens."""
    host = require_module("comfy.ldm.anima.model", "Anima")
    sizes = {"source_dim": 48, "target_dim": 48, "model_dim": 48, "num_layers": 1, "num_heads": 2}
    with mock.patch.object(host, "LLMAdapter", partial(host.LLMAdapter, **sizes)):
        model = make_model("Anima", "Anima", **SIZES)
    text = prompts(48)
    for seed, (_, extra) in enumerate([*text["positive"], *text["negative"]]):
        extra["t5xxl_ids"] = torch.randint(1000, (10,), generator=torch.Generator().manual_seed(seed))
        extra["t5xxl_weights"] = torch.ones(10)
    return Sampled(model, **text, latent=empty_latent(1, 16, 1, 16, 16))


COSMOS_PREDICT2 = [
    ZooModel("Cosmos-Predict2 text to image", "image", "CosmosPredict2", text_to_image),
    ZooModel("Cosmos-Predict2 with position embedding", "video", "CosmosPredict2", with_position_embedding),
    ZooModel("Anima", "image", "Anima", anima),
]
