"""Makes the runs of `runs.py` in a real ComfyUI and takes digests of the results.

Only the entry point of the pack is used, with the node ids and inputs of saved workflows, so commits whose modules and
classes have other names run the same way. The caller has already brought ComfyUI into the process.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from .digests import Digests, digests_of, outcomes, saved_schedules, sha256
from .runs import Experts, Run, Sampled, Searched

PROMPT = "a big red circle moving right over a blue ground"
LONG_PROMPT = " and ".join(["a small green square moving up"] * 5)
EASY_CHECKPOINT, HARD_CHECKPOINT = "*tiny_wan_fp16.safetensors", "*wan_hard*.safetensors"
ATTENTION_ENV = "ASTRAEA_ATTENTION"


def start_comfyui(tree: Path) -> None:
    """Make `import comfy` work as inside main.py, on the CPU. ComfyUI's folders are a temporary base directory."""
    base = tempfile.mkdtemp(prefix="astraea-same-results-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention", "--base-directory", base]
    sys.path.insert(0, str(tree))
    importlib.import_module("comfy.options").enable_args_parsing()
    importlib.import_module("comfy.sd")
    importlib.import_module("comfy.sample")


def load_pack(folder: Path, name: str) -> ModuleType:
    """The pack in `folder` as package `name`, as ComfyUI loads it."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"There is no pack in '{folder}'.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def nodes_of(pack: ModuleType) -> dict[str, Any]:
    """The pack's node classes by node id."""

    async def listed() -> list[Any]:
        extension = await pack.comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    return {node.define_schema().node_id: node for node in asyncio.run(listed())}


class Maker:
    """Makes runs with the nodes of one pack. Models are loaded once; folder: the pack's, which holds the hard model."""

    def __init__(self, nodes: Mapping[str, Any], folder: Path):
        self._nodes, self._folder = nodes, folder
        self._models: dict[str, Any] = {}
        self._makers: dict[type, Callable[[Any], Digests]] = {
            Sampled: self._sampled,
            Experts: self._experts,
            Searched: self._searched,
        }

    def make(self, run: Run) -> Digests:
        """Make a run. An exception becomes its `failure`."""
        import torch

        with repeatable(), torch.inference_mode():
            try:
                return self._makers[type(run)](run)
            except Exception as error:
                return Digests(failure=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")

    def call(self, node_id: str, **inputs: Any) -> tuple[Any, ...]:
        """All outputs of a node; inputs that are not given have their defaults."""
        node = self._nodes[node_id]
        known = {each.id: getattr(each, "default", None) for each in node.define_schema().inputs}
        defaults = {name: value for name, value in known.items() if value is not None}
        return tuple(node.execute(**(defaults | inputs)).args)

    def _model(self, name: str) -> Any:
        import comfy.sd
        import torch

        if name not in self._models:
            file = min(self._folder.rglob(EASY_CHECKPOINT if name == "easy" else HARD_CHECKPOINT))
            options = {"dtype": torch.bfloat16} if name.endswith("bf16") else {}
            self._models[name] = comfy.sd.load_diffusion_model(str(file), model_options=options)
        return self._models[name]

    def _prompt(self, text: str) -> Any:
        return self.call("AstraeaDemoPrompt", text=text)[0]

    def _accelerated(self, model: Any, accelerate: Mapping[str, Any], inline: str) -> tuple[Any, Any]:
        """MODEL and report. Attention is ComfyUI's unless the run names one, as the fastest differs between tries."""
        inputs = {"attention": "host", **accelerate}
        if inline:
            inputs["astraea_schedule"] = self.call("AstraeaScheduleInline", schedule_json=inline)[0]
        accelerated, report, *_ = self.call("AstraeaAccelerate", model=model, **inputs)
        return accelerated, report

    def _sampled(self, run: Sampled) -> Digests:
        model, report = _shifted(self._model(run.model), run.shift), None
        if run.accelerate is not None:
            model, report = self._accelerated(model, run.accelerate, run.inline)
        return digests_of(self._sample(model, run), [report])

    def _sample(self, model: Any, run: Sampled) -> Any:
        """Final latents, by ComfyUI's KSampler."""
        import comfy.sample
        import torch

        torch.manual_seed(run.seed)
        latents, mask = torch.zeros(run.shape), None
        if run.masked:
            latents = torch.randn(run.shape, generator=torch.Generator().manual_seed(run.seed + 1000))
            mask = torch.ones(run.shape[0], 1, *run.shape[2:])
            mask[:, :, 0] = 0.0
        return comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(latents, run.seed),
            run.steps,
            run.cfg,
            run.sampler,
            run.scheduler,
            self._prompt(LONG_PROMPT if run.two_calls else PROMPT),
            self._prompt(""),
            latents,
            denoise=run.denoise,
            noise_mask=mask,
            disable_pbar=True,
            seed=run.seed,
        )

    def _experts(self, run: Experts) -> Digests:
        """Samples as two SamplerCustom nodes do, the second without noise of its own."""
        import comfy.sample
        import comfy.samplers
        import torch

        torch.manual_seed(run.seed)
        latents = torch.zeros(run.shape)
        noises = [comfy.sample.prepare_noise(latents, run.seed), torch.zeros(run.shape)]
        sampling = self._model("easy").get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", run.steps)
        parts = (sigmas[: run.split + 1], sigmas[run.split :])
        reports = []
        for name, noise, part in zip(("easy", "hard"), noises, parts, strict=True):
            model, report = self._accelerated(self._model(name), run.accelerate, run.inline)
            reports.append(report)
            sampler = comfy.samplers.sampler_object(run.sampler)
            conditionings = (self._prompt(PROMPT), self._prompt(""))
            latents = comfy.sample.sample_custom(
                model, noise, run.cfg, sampler, part, *conditionings, latents, disable_pbar=True, seed=run.seed
            )
        return digests_of(latents, reports)

    def _searched(self, run: Searched) -> Digests:
        """The search gets a user folder of its own, and ComfyUI's attention, as the fastest differs between tries."""
        import torch

        model, positive, negative = self._model("easy"), self._prompt(PROMPT), self._prompt("")
        with _user_folder() as folder, _environment({ATTENTION_ENV: "host"}):
            schedule, *_ = self.call(
                "AstraeaSearch",
                model=model,
                positive=positive,
                negative=negative,
                latent={"samples": torch.zeros(run.shape)},
                steps=run.steps,
                cfg=run.cfg,
                sampler_name=run.sampler,
                scheduler="simple",
                first_seed=run.seed,
                budgets=run.budgets,
                effort=self._option("AstraeaSearch", "effort", run.effort),
                cases=run.cases,
                name="same",
            )
            saved, candidates = saved_schedules(folder), outcomes(folder)
        fast, report, *_ = self.call("AstraeaAccelerate", model=model, astraea_schedule=schedule, attention="host")
        after = Sampled(run.name, steps=run.steps, cfg=run.cfg, sampler=run.sampler, shape=run.shape, seed=run.seed)
        found = digests_of(self._sample(fast, after), [report])
        steps = sha256(f"{found.steps} {candidates}") if found.steps and candidates else ""
        return replace(found, steps=steps, schedules=sha256(saved))

    def _option(self, node_id: str, name: str, begins: str) -> str:
        """The option of a widget that begins with these letters."""
        (widget,) = (each for each in self._nodes[node_id].define_schema().inputs if each.id == name)
        return next(option for option in widget.options if option.startswith(begins))


def _shifted(model: Any, shift: float | None) -> Any:
    """The model with another shift of its noise levels, by ComfyUI's own node."""
    if shift is None:
        return model
    return importlib.import_module("comfy_extras.nodes_model_advanced").ModelSamplingSD3().patch(model, shift)[0]


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """One thread, deterministic kernels and a stopped clock, so that no decision depends on measured time."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    clocks = time.perf_counter, time.perf_counter_ns
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    time.perf_counter, time.perf_counter_ns = (lambda: 0.0), (lambda: 0)  # type: ignore[assignment]
    try:
        yield
    finally:
        time.perf_counter, time.perf_counter_ns = clocks  # type: ignore[assignment]
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _user_folder() -> Iterator[Path]:
    """An empty folder in the place of ComfyUI's user folder."""
    import folder_paths

    before, folder = folder_paths.get_user_directory(), tempfile.mkdtemp(prefix="astraea-same-results-")
    folder_paths.set_user_directory(folder)
    try:
        yield Path(folder)
    finally:
        folder_paths.set_user_directory(before)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
