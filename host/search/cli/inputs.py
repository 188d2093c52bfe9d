"""From the command line's options to what is sampled: MODEL, conditionings, latents, noise levels, and the bench."""

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
from ....tiny.shipped import CHECKPOINT, LATENT_SHAPE, PROMPTS
from ....tiny.words import context_for
from ..runner import ComfyRunner
from ..samplers import sampler_named, sampler_names, scheduler_names, sigmas_of
from ..session import cases_of
from .options import Options

FRAMES_A_LATENT = 4  # of video models: the first latent is one frame, each further one so many
WIDE_CHANNELS, WIDE_RATIO, RATIO = 48, 16, 8  # pixels a latent by its channels, where the host does not say


@dataclass(frozen=True)
class Prompts:
    """CONDITIONINGs on the CPU: one per prompt, and the negative one."""

    positives: tuple[list, ...]
    negative: list


def apply_paths() -> None:
    """What ComfyUI's main.py does about folders before nodes are loaded: extra model paths, the user's folder."""
    files = [Path(comfy.utils.__file__).parents[1] / "extra_model_paths.yaml"]
    files += map(Path, itertools.chain(*(comfy_args.extra_model_paths_config or ())))
    for number, file in enumerate(files):
        if number or file.is_file():
            importlib.import_module("utils.extra_config").load_extra_path_config(str(file))
    if comfy_args.user_directory:
        folder_paths.set_user_directory(os.path.abspath(comfy_args.user_directory))


def check_words(options: Options) -> None:
    """Raise SearchError for names that the host does not know."""
    known = (("sampler", options.sampler, sampler_names()), ("scheduler", options.scheduler, scheduler_names()))
    for what, word, words in known:
        if word not in words:
            raise SearchError(f"The {what} '{word}' is unknown; choose one of {', '.join(words)}.")


def prompts_of(options: Options) -> Prompts:
    """The prompts through the text encoder, which is unloaded again. Raises SearchError."""
    if options.tiny:
        texts = options.prompts or PROMPTS[: options.cases]
        return Prompts(
            tuple([[context_for(text)[None], {}]] for text in texts), [[context_for(options.negative)[None], {}]]
        )
    clip = _clip(options)
    conditionings = [
        _on_cpu(clip.encode_from_tokens_scheduled(clip.tokenize(t))) for t in (*options.prompts, options.negative)
    ]
    del clip
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    return Prompts(tuple(conditionings[:-1]), conditionings[-1])


def make_runner(options: Options, prompts: Prompts | tuple) -> ComfyRunner:
    """The bench that the options describe. prompts: a `Prompts`, or its two fields. Raises SearchError."""
    positives, negative = (prompts.positives, prompts.negative) if isinstance(prompts, Prompts) else prompts
    model = _model(options)
    latent = {"samples": torch.zeros(1, *_latent_shape(options, model))}
    return ComfyRunner(
        model,
        cases_of(positives, negative, latent, options.seed, options.cases),
        sampler=sampler_named(options.sampler),
        sigmas=sigmas_of(model, options.steps, options.sampler, options.scheduler),
        cfg=options.cfg,
    )


def _model(options: Options) -> Any:
    file = CHECKPOINT if options.tiny else _file("diffusion_models", options.model)
    model = _loaded(file, lambda: comfy.sd.load_diffusion_model(str(file)))
    for name, strength in options.loras:
        lora = _file("loras", name)
        weights = _loaded(lora, lambda lora=lora: comfy.utils.load_torch_file(str(lora), safe_load=True))
        model, _ = comfy.sd.load_lora_for_models(model, None, weights, strength, 0.0)
    return model if options.shift is None else _shifted(model, options.shift)


def _shifted(model: Any, shift: float) -> Any:
    """By the host's own node."""
    return importlib.import_module("comfy_extras.nodes_model_advanced").ModelSamplingSD3().patch(model, shift)[0]


def _clip(options: Options) -> Any:
    kind = getattr(comfy.sd.CLIPType, options.clip_type.upper(), None)
    if kind is None:
        known = ", ".join(each.name.lower() for each in comfy.sd.CLIPType)
        raise SearchError(f"The kind of text encoder '{options.clip_type}' is unknown; choose one of {known}.")
    file = _file("text_encoders", options.clip or "")
    embeddings = folder_paths.get_folder_paths("embeddings")
    return _loaded(file, lambda: comfy.sd.load_clip([str(file)], embedding_directory=embeddings, clip_type=kind))


def _file(kind: str, name: str) -> Path:
    """A path that was given, or the file of that name in the host's folders of that kind."""
    found = name if Path(name).is_file() else folder_paths.get_full_path(kind, name)
    if found is None:
        known = ", ".join(folder_paths.get_filename_list(kind)) or "none"
        raise SearchError(f"There is no '{name}' in ComfyUI's {kind}, which are: {known}.")
    return Path(found)


def _loaded(file: Path, load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # by what it is damaged, every format says in its own way
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise SearchError(f"'{file}' cannot be loaded ({first}).") from None


def _latent_shape(options: Options, model: Any) -> tuple[int, int, int, int]:
    """`(C, T, H, W)` of the video's latents."""
    if options.latent is not None:
        return options.latent
    if options.width is None or options.height is None or options.frames is None:
        return LATENT_SHAPE[1:]
    form = model.get_model_object("latent_format")
    channels = form.latent_channels
    ratio = getattr(form, "spacial_downscale_ratio", WIDE_RATIO if channels == WIDE_CHANNELS else RATIO)
    frames = (options.frames - 1) // FRAMES_A_LATENT + 1
    return channels, frames, max(1, options.height // ratio), max(1, options.width // ratio)


def _on_cpu(value: Any) -> Any:
    """A conditioning with its tensors on the CPU: it may go to other processes."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(of) for key, of in value.items()}
    return [_on_cpu(of) for of in value] if isinstance(value, (list, tuple)) else value
