"""Makes the inputs of a search from the command's options: MODEL, conditionings, latents, noise levels, runner."""

from __future__ import annotations

import importlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args as comfy_args

from ....errors import SearchError
from ....tiny.demo_model.words import PROMPTS
from ....tiny.shipped import CHECKPOINT, LATENT_SHAPE
from ....tiny.words import context_for
from ..runner import ComfyRunner
from ..samplers import sampler_named, sampler_names, scheduler_names, sigmas_of
from ..session import make_cases
from .options import CliOptions

FRAMES_PER_LATENT = 4  # of video models, after the first latent, which is one frame
WIDE_CHANNELS, WIDE_RATIO, RATIO = 48, 16, 8  # pixels per latent, by channels, where ComfyUI states none


@dataclass(frozen=True)
class Prompts:
    """CONDITIONINGs on the CPU: one per prompt, and the negative one."""

    positives: tuple[list, ...]
    negative: list


def apply_paths() -> None:
    """Apply extra model paths and the user's folder, as ComfyUI's main.py does before it loads nodes."""
    files = [Path(comfy.utils.__file__).parents[1] / "extra_model_paths.yaml"]
    files += map(Path, itertools.chain(*(comfy_args.extra_model_paths_config or ())))
    for number, file in enumerate(files):
        if number or file.is_file():
            importlib.import_module("utils.extra_config").load_extra_path_config(str(file))
    if comfy_args.user_directory:
        folder_paths.set_user_directory(os.path.abspath(comfy_args.user_directory))


def check_names(options: CliOptions) -> None:
    """Raise SearchError for a sampler or scheduler that ComfyUI does not have."""
    known = (("sampler", options.sampler, sampler_names()), ("scheduler", options.scheduler, scheduler_names()))
    for kind, name, names in known:
        if name not in names:
            raise SearchError(f"The {kind} '{name}' is unknown; choose one of {', '.join(names)}.")


def encode_prompts(options: CliOptions) -> Prompts:
    """Encode the prompts by the text encoder, which is unloaded afterwards. Raises SearchError."""
    if options.is_tiny:
        texts = options.prompts or PROMPTS[: options.cases]
        return Prompts(
            tuple([[context_for(text)[None], {}]] for text in texts), [[context_for(options.negative)[None], {}]]
        )
    clip = _load_clip(options)
    conditionings = [
        _on_cpu(clip.encode_from_tokens_scheduled(clip.tokenize(t))) for t in (*options.prompts, options.negative)
    ]
    del clip
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    return Prompts(tuple(conditionings[:-1]), conditionings[-1])


def make_runner(options: CliOptions, prompts: Prompts | tuple) -> ComfyRunner:
    """Return the runner that the options describe. prompts: a `Prompts`, or its two fields. Raises SearchError."""
    positives, negative = (prompts.positives, prompts.negative) if isinstance(prompts, Prompts) else prompts
    model = _load_model(options)
    latent = {"samples": torch.zeros(1, *_latent_shape(options, model))}
    return ComfyRunner(
        model,
        make_cases(positives, negative, latent, options.seed, options.cases),
        sampler=sampler_named(options.sampler),
        sigmas=sigmas_of(model, options.steps, options.sampler, options.scheduler),
        cfg=options.cfg,
    )


def _load_model(options: CliOptions) -> Any:
    file = CHECKPOINT if options.is_tiny else _find_file("diffusion_models", options.model)
    model = _load(file, lambda: comfy.sd.load_diffusion_model(str(file)))
    for name, strength in options.loras:
        lora = _find_file("loras", name)
        weights = _load(lora, lambda lora=lora: comfy.utils.load_torch_file(str(lora), safe_load=True))
        model, _ = comfy.sd.load_lora_for_models(model, None, weights, strength, 0.0)
    return model if options.shift is None else _shifted(model, options.shift)


def _shifted(model: Any, shift: float) -> Any:
    """Set the shift by ComfyUI's own node."""
    return importlib.import_module("comfy_extras.nodes_model_advanced").ModelSamplingSD3().patch(model, shift)[0]


def _load_clip(options: CliOptions) -> Any:
    kind = getattr(comfy.sd.CLIPType, options.clip_type.upper(), None)
    if kind is None:
        known = ", ".join(each.name.lower() for each in comfy.sd.CLIPType)
        raise SearchError(f"The kind of text encoder '{options.clip_type}' is unknown; choose one of {known}.")
    file = _find_file("text_encoders", options.clip or "")
    embeddings = folder_paths.get_folder_paths("embeddings")
    return _load(file, lambda: comfy.sd.load_clip([str(file)], embedding_directory=embeddings, clip_type=kind))


def _find_file(kind: str, name: str) -> Path:
    """Return the path that was given, or the file of this name in ComfyUI's folders of this kind."""
    found = name if Path(name).is_file() else folder_paths.get_full_path(kind, name)
    if found is None:
        known = ", ".join(folder_paths.get_filename_list(kind)) or "none"
        raise SearchError(f"There is no '{name}' in ComfyUI's {kind}, which are: {known}.")
    return Path(found)


def _load(file: Path, load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # each file format has its own errors for a damaged file
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise SearchError(f"'{file}' cannot be loaded ({first}).") from None


def _latent_shape(options: CliOptions, model: Any) -> tuple[int, int, int, int]:
    """Return `(C, T, H, W)` of the video's latents."""
    if options.latent is not None:
        return options.latent
    if options.width is None or options.height is None or options.frames is None:
        return LATENT_SHAPE[1:]
    form = model.get_model_object("latent_format")
    channels = form.latent_channels
    ratio = getattr(form, "spacial_downscale_ratio", WIDE_RATIO if channels == WIDE_CHANNELS else RATIO)
    frames = (options.frames - 1) // FRAMES_PER_LATENT + 1
    return channels, frames, max(1, options.height // ratio), max(1, options.width // ratio)


def _on_cpu(value: Any) -> Any:
    """Return a conditioning with its tensors on the CPU, as it may be sent to other processes."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(of) for key, of in value.items()}
    return [_on_cpu(of) for of in value] if isinstance(value, (list, tuple)) else value
