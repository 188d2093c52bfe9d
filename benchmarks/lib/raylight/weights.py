"""The model that is measured: a file of the Wan format, its sizes, or one of random weights.

torch and ComfyUI are imported where they are needed.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..host.random_wan import SMALL, WanSize, random_state_dict
from ..scaling.model import CHANNELS, Network

SIZES = {"14b": WanSize(5120, 13824, 40), "1.3b": WanSize()}
SIZE_NAMES = {"14b": "Wan 2.1 14B", "1.3b": "Wan 2.1 1.3B", "small": "a small Wan"}
PREFIX = "model.diffusion_model."
OTHER_PARTS = ("img_emb.", "vace_", "ref_conv.", "control_adapter.", "audio_", "face_")  # they send more, or nothing
RANDOM_FILE = "astraea_random_wan.safetensors"


def size_named(name: str) -> WanSize:
    return SMALL if name == "small" else SIZES[name]


def network_of(size: WanSize, name: str) -> Network:
    return Network(name, dim=size.dim, feed_forward=size.feed_forward, layers=size.layers)


def network_in(path: Path) -> Network:
    """Return the sizes of a text-to-video model of the Wan format. Raises ValueError for another file."""
    shapes = {name.removeprefix(PREFIX): each["shape"] for name, each in _header(path).items() if "shape" in each}
    patch, feed_forward = shapes.get("patch_embedding.weight"), shapes.get("blocks.0.ffn.0.weight")
    if patch is None or feed_forward is None or len(patch) != 5:
        raise ValueError(f"'{path}' holds no model of the Wan format.")
    others = sorted({part for part in OTHER_PARTS for name in shapes if name.startswith(part)})
    if patch[1] != CHANNELS or others:
        raise ValueError(
            f"'{path}' is no text-to-video model of Wan 2.1 or 2.2, 1.3B or 14B: the formula fits no other."
        )
    layers = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
    return Network(path.stem, dim=patch[0], feed_forward=feed_forward[0], layers=layers)


def _header(path: Path) -> Mapping[str, Any]:
    """Return what a safetensors file says of its tensors."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 100 << 20)))
    except (OSError, ValueError, struct.error) as error:
        raise ValueError(f"'{path}' cannot be read as safetensors: {error}.") from None
    return {name: each for name, each in header.items() if isinstance(each, dict)}


def in_folder(path: Path) -> str:
    """Let ComfyUI, and so raylight's loader, find a file; returns its name there."""
    import folder_paths

    folder_paths.add_model_folder_path("diffusion_models", str(path.parent))
    return path.name


def write_random(size: WanSize, folder: Path, *, small: bool, seed: int) -> Path:
    """Write random weights into a folder: in bfloat16, for a small trial in float32. Exits if the disk is too small."""
    import torch
    from safetensors.torch import save_file

    needed = bytes_of(size) * (2 if small else 1)
    free = shutil.disk_usage(folder).free
    if free < 1.05 * needed:
        sys.exit(
            f"The random weights take {needed / 1e9:.1f} GB, and '{folder}' has {free / 1e9:.1f} GB free: name a "
            "folder with more room in the variable TMPDIR, or a file of weights with --model."
        )
    print(f"writing {needed / 1e9:.1f} GB of random weights …", flush=True)
    dtype, device = (torch.float32, "cpu") if small else (torch.bfloat16, "cuda")
    path = folder / RANDOM_FILE
    save_file(random_state_dict(size, dtype, device, seed), path)
    if not small:
        torch.cuda.empty_cache()
    return path


def bytes_of(size: WanSize) -> int:
    """Return about the bytes of the weights in bfloat16."""
    return 2 * size.layers * (8 * size.dim**2 + 2 * size.dim * size.feed_forward)
