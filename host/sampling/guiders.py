"""Facts about a run that the host's guiders state: conditionings, text, guidance."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

LAZY_CACHE = "lazycache"  # key of the host's node
LAZY_CACHE_REASON = (
    "LazyCache takes a reused prediction for a sign that nothing changes, and would answer all later steps itself: "
    "every step that it leaves is computed"
)

# Entries of a conditioning that bring tokens of their own, by the names that nodes give them: the names that the model
# is given them under, and its layout with it.
OWN_TOKENS = {
    "time_dim_concat": "time_dim_concat",
    "context_latents": "context_latents",
    "pose_video_latent": "pose_latents",
    "reference_motion": "reference_motion",
    "minimax_keyframes": "minimax_keyframes",
    "minimax_refs": "minimax_refs",
}


def conditioning_count(guider: Any) -> int:
    """Count the conditionings that the guider evaluates per step; guidance 1 leaves the negative out."""
    conditionings = getattr(guider, "conds", None) or getattr(guider, "original_conds", None) or {}
    skip_negative = math.isclose(getattr(guider, "cfg", 0.0), 1.0) and not guider.model_options.get(
        "disable_cfg1_optimization", False
    )
    counts = [len(conds) for role, conds in conditionings.items() if not (skip_negative and role == "negative")]
    return max(1, sum(counts))


def context_length(guider: Any) -> int | None:
    """Count the text tokens of the first conditioning; None where the guider has none."""
    for conds in (getattr(guider, "conds", None) or {}).values():
        for cond in conds:
            if isinstance(cond.get("cross_attn"), torch.Tensor):
                return cond["cross_attn"].shape[1]
    return None


def expected_conditions(guider: Any, noise_shape: tuple[int, ...], latent_shapes: Any) -> dict[str, Any]:
    """Return the conditions that decide how many tokens the run's calls will have, by the host's names.

    They come from the guider's conditionings before the model has processed them: the text's length, a placeholder for
    a reference frame in the latent's size, the shapes of the streams that are packed into one latent, and what else of
    a conditioning becomes tokens.
    """
    conditionings = [cond for conds in (getattr(guider, "conds", None) or {}).values() for cond in conds]
    found: dict[str, Any] = {}
    if (text := context_length(guider)) is not None:
        found["c_crossattn"] = torch.empty((1, text, 1), device="meta")
    if any("reference_latents" in cond for cond in conditionings):
        found["reference_latent"] = torch.empty((1, 1, *noise_shape[-2:]), device="meta")
    if latent_shapes is not None and len(latent_shapes) > 1:
        found["latent_shapes"] = latent_shapes
    for cond in reversed(conditionings):  # the first one counts, as for the text
        found |= {name: cond[given] for given, name in OWN_TOKENS.items() if cond.get(given) is not None}
    return found


def guidance_scale(guider: Any) -> float | None:
    """Return the guidance scale, the larger one of two; None where the guider states none."""
    scales = [getattr(guider, name, None) for name in ("cfg1", "cfg2")]
    if None in scales:
        scales = [getattr(guider, "cfg", None)]
    known = [float(scale) for scale in scales if isinstance(scale, (int, float)) and math.isfinite(scale)]
    return max(known, default=None)


def second_model_note(guider: Any, key: str) -> str:
    """Return the report's note on a guider with a second MODEL for the negative conditioning; "" for others.

    key: under which an accelerated MODEL's transformer options hold its plan.
    """
    patcher = getattr(guider, "uncond_model_patcher", None)
    if patcher is None:
        return ""
    note = "the guider's second model follows this plan, too"
    has_plan = key in getattr(patcher, "model_options", {}).get("transformer_options", {})
    return f"{note}: its own Astraea Accelerate is ignored" if has_plan else note


def step_cache_reason(guider: Any) -> str:
    """Return why the run must be computed in full beside another node's step cache; "" if it need not.

    LazyCache looks at what the sampler gets, so that it sees reused predictions, too. EasyCache sees the model's alone.
    """
    wrappers = guider.model_options.get("transformer_options", {}).get("wrappers", {})
    return LAZY_CACHE_REASON if wrappers.get(WrappersMP.PREDICT_NOISE, {}).get(LAZY_CACHE) else ""
