"""What every small model is made of: the host's own class with few, narrow layers and random weights; its inputs."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import torch
from torch import Tensor


class NotOnThisHost(Exception):
    """The running ComfyUI does not have this model."""


@dataclass
class Sampled:
    """A model and all that a sampler node is given with it."""

    model: Any
    positive: list
    negative: list
    latent: dict


@dataclass(frozen=True)
class ZooModel:
    """One entry of the zoo; `build` raises NotOnThisHost where the host lacks the model."""

    name: str
    kind: str
    base_class: str
    build: Callable[[], Sampled]


Store = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Stored:
    """The form of models' weights; see `stored`."""

    config: dict[str, Any]
    store: Store | None = None


def sample(
    sampled: Sampled,
    model: Any = None,
    *,
    steps: int = 8,
    cfg: float = 3.0,
    sampler: str = "euler",
    scheduler: str = "simple",
    seed: int = 0,
) -> Any:
    """Samples as the host's KSampler node does, with `model` in place of the entry's own if given."""
    model = sampled.model if model is None else model
    latent = comfy.sample.fix_empty_latent_channels(model, sampled.latent["samples"])
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed, sampled.latent.get("batch_index")),
        steps,
        cfg,
        sampler,
        scheduler,
        sampled.positive,
        sampled.negative,
        latent,
        noise_mask=sampled.latent.get("noise_mask"),
        disable_pbar=True,
        seed=seed,
    )


def tensors(latent: Any) -> list[Tensor]:
    """The tensors of a latent: one, or one a stream."""
    return list(latent.unbind()) if getattr(latent, "is_nested", False) else [latent]


def make_model(
    config: str,
    base_class: str,
    state_dict: dict[str, Tensor] | None = None,
    shrink: Callable[[Any], None] | None = None,
    device: str | None = None,
    **sizes: Any,
) -> Any:
    """A MODEL of `comfy.supported_models.<config>` whose network has these sizes.

    Args:
        config: the class in comfy.supported_models; it brings latent format, sampling settings and kind of prediction.
        base_class: the class of comfy.model_base that it is expected to make.
        state_dict: what the config looks up in a checkpoint besides the network's weights.
        shrink: replaces parts of the network whose size its constructor does not let one choose.
        device: "meta" for a network that would not fit into memory before it is shrunk.
        sizes: arguments of the network's constructor.

    Raises:
        NotOnThisHost: the host has no such class.
    """
    if not hasattr(comfy.supported_models, config) or not hasattr(comfy.model_base, base_class):
        raise NotOnThisHost(f"this ComfyUI has no {config}")

    def network(weights_from: Stored) -> Any:
        settings = model_config(config, sizes | _sizes, weights_from)
        with empty_tensors_are_nan():
            model = settings.get_model(state_dict or {}, "", device=device)
            if shrink is not None:
                shrink(model.diffusion_model)
        assert type(model).__name__ == base_class
        fill(model)
        return model

    model = network(Stored({} if _stored.store else _stored.config))
    if _stored.store:
        weights = _stored.store(model.diffusion_model.state_dict())
        model = network(_stored)
        model.load_model_weights(weights, "")
    model.device = None  # what the loader leaves it at, also after "meta"
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def model_config(config: str, sizes: dict[str, Any], stored: Stored) -> Any:
    """The host's settings of a model of these sizes."""
    supported = getattr(comfy.supported_models, config)
    settings = supported(supported.unet_config | sizes)
    settings.unet_config.update(sizes)  # over what the config presets for models of the usual size
    settings.set_inference_dtype(*_dtypes)
    for name, value in stored.config.items():
        setattr(settings, name, value)
    return settings


def require_module(name: str, model: str) -> Any:
    """A module of the host; NotOnThisHost where this ComfyUI does not have it, and so not the model."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not name.startswith(str(error.name)):
            raise
        raise NotOnThisHost(f"this ComfyUI has no {model} (no {name})") from None


_dtypes: tuple[torch.dtype, torch.dtype | None] = (torch.float32, None)
_sizes: dict[str, Any] = {}
_stored = Stored({})


@contextmanager
def sizes(**arguments: Any) -> Iterator[None]:
    """Within the context models are made with these arguments of the network's constructor instead of their own."""
    before = dict(_sizes)
    _sizes.update(arguments)
    try:
        yield
    finally:
        _sizes.clear()
        _sizes.update(before)


@contextmanager
def weights_in(dtype: torch.dtype, compute: torch.dtype | None = None) -> Iterator[None]:
    """Within the context models are made with weights of this dtype, and compute in `compute`, default the same."""
    global _dtypes
    before, _dtypes = _dtypes, (dtype, compute)
    try:
        yield
    finally:
        _dtypes = before


@contextmanager
def stored(store: Store | None = None, **config: Any) -> Iterator[None]:
    """Within the context models hold their weights in another way than as plain tensors.

    Args:
        store: makes what a file has in place of a network's plain weights; the host's own code loads it.
        config: attributes of the host's settings of a model, such as `custom_operations` and `quant_config`.
    """
    global _stored
    before, _stored = _stored, Stored(config, store)
    try:
        yield
    finally:
        _stored = before


def known_fields(params: Any, settings: dict) -> dict:
    """Those settings that a dataclass of the host has: newer hosts have more."""
    return {name: value for name, value in settings.items() if name in params.__dataclass_fields__}


@contextmanager
def empty_tensors_are_nan() -> Iterator[None]:
    """So that what was left for a checkpoint to fill can be told from what the constructor computed."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def fill(module: torch.nn.Module, seed: int = 0) -> None:
    """Random weights: all parameters but computed frequencies, and those buffers that the constructor left empty."""
    generator = torch.Generator().manual_seed(seed)
    for path, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            frequencies = name.startswith("freq") and not parameter.isnan().any()
            if parameter.is_floating_point() and not frequencies:
                weight = random_weight(owner, f"{path}.{name}", parameter, generator)
                setattr(owner, name, torch.nn.Parameter(weight, requires_grad=False))
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_floating_point() and buffer.isnan().any():
                setattr(owner, name, random_weight(owner, f"{path}.{name}", buffer, generator))


def random_weight(owner: torch.nn.Module, path: str, empty: Tensor, generator: torch.Generator) -> Tensor:
    """Weights that keep the size of what flows through: every layer's output is about as large as its input."""
    name = path.rsplit(".", 1)[1]
    if name == "inv_freq":
        return 1.0 / 10000.0 ** (torch.arange(empty.numel()) / empty.numel())
    values = torch.empty(empty.shape).uniform_(-math.sqrt(3.0), math.sqrt(3.0), generator=generator)
    if isinstance(owner, torch.nn.Embedding):
        return values.to(empty.dtype)
    if empty.ndim < 2:
        is_factor = name.endswith(("weight", "scale", "gamma"))
        return (1.0 + 0.1 * values if is_factor else 0.05 * values).to(empty.dtype)
    if name.endswith("weight"):
        return (1.25 * values / math.sqrt(math.prod(empty.shape[1:]))).to(empty.dtype)
    return (0.3 * values).to(empty.dtype)  # modulation tables, position embeddings, learned tokens


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt(width: int, length: int = 12, seed: int = 1, /, **extra: Any) -> list:
    """A conditioning as text encoder nodes make it: `[1, length, width]` and what else the model reads.

    The tokens of one text resemble each other, so that texts differ even where all of their tokens are averaged.
    """
    tokens = random(1, length, width, seed=seed) + 2.0 * random(1, 1, width, seed=100 + seed)
    return [[tokens, {"pooled_output": None} | extra]]


def prompts(
    width: int,
    lengths: Sequence[int] = (12, 9),
    /,
    *,
    pooled: int = 0,
    padding: int | None = None,
    each: Callable[[int, int], dict] = lambda seed, length: {},
    **extra: Any,
) -> dict:
    """Positive and negative, which differ in their text.

    Args:
        width, lengths: of the text.
        pooled: width of the pooled output; 0: none.
        padding: how many tokens at the end the attention mask hides; None: there is no mask.
        each: what else differs, from a seed and the length of the text.
        extra: what both have besides.
    """
    made = []
    for seed, length in enumerate(lengths, 1):
        more = extra | each(seed, length)
        if pooled:
            more["pooled_output"] = random(1, pooled, seed=10 + seed)
        if padding is not None:
            more["attention_mask"] = (torch.arange(length) < length - padding)[None].long()
        made.append(prompt(width, length, seed, **more))
    return {"positive": made[0], "negative": made[1]}


def empty_latent(*shape: int, **extra: Any) -> dict:
    """A latent as the empty-latent nodes make it."""
    return {"samples": torch.zeros(shape), **extra}
