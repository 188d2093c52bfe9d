"""Models and calls whose predictions must not be reused: a forecast would stand in for something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine.blocks.interface import class_name
from ..errors import UnsupportedModel

# Models are the host's and known by their attributes only, hence Any.


def refuse(model: Any) -> None:
    """Raise UnsupportedModel for a model none of whose calls can be left out."""
    if hasattr(model, "init_kv_caches"):
        raise UnsupportedModel(
            f"{class_name(model)} makes frames one after another, and each continues from what it keeps of the last"
        )


def full_reason(model: Any, conditions: Mapping[str, Any]) -> str:
    """Return why a call must be computed whatever the schedule says; "" if it need not.

    conditions: the call's extra conditions, by the host's names.
    """
    mean_of_time = getattr(model, "time_r_in", None) is not None and not conditions.get("disable_time_r", False)
    if mean_of_time or _output_heads(model) > 1:
        return "the model predicts a mean on the way to the next noise level, which no other step's can stand in for"
    return ""


def _output_heads(model: Any) -> int:
    """Count the heads in a bank of output heads, of which each step takes the mean from its noise level to the next.

    Such a bank comes with a LoRA: the head's Linear then has weights for several times its output channels. Weights in
    another form, such as packed ones, are those of one head.
    """
    head = getattr(getattr(model, "final_layer", None), "video_out", None)
    weight, width, channels = (getattr(head, name, None) for name in ("weight", "in_features", "out_features"))
    if weight is None or not channels or weight.ndim != 2 or weight.shape[1] != width:
        return 1
    return weight.shape[0] // channels
