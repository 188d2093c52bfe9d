"""Shared by the tests with raylight's real workers, which are skipped where ASTRAEA_RAYLIGHT names no copy of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import comfy.ldm.wan.model as wan
import comfy.ops
import comfy.sd
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from sampling import LONG, PROMPT, WHOLE, conditioning, psnr, random_weights

from astraea.engine.planning.plan import make_plan
from astraea.engine.report import ReportHandle
from astraea.host.raylight.workers import accelerate_workers
from hosts import current_host

RAYLIGHT = os.environ.get("ASTRAEA_RAYLIGHT", "")
if not RAYLIGHT:
    pytest.skip("ASTRAEA_RAYLIGHT names no copy of raylight", allow_module_level=True)
import ray  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from lib.raylight.cluster import Cluster, Division  # noqa: E402
from lib.raylight.cluster import sample as sample_by_raylight  # noqa: E402
from lib.scaling.formula import ulysses_bytes  # noqa: E402

MODEL, VACE = "astraea_random_wan.safetensors", "astraea_random_vace.safetensors"
SIZES = {"dim": 512, "ffn_dim": 512, "num_heads": 4, "num_layers": 4, "in_dim": 16, "out_dim": 16}
SHAPE, TOKEN_COUNT = (1, 16, 3, 16, 16), 192
RUN = {"steps": 8, "cfg": 3.0, "positive": conditioning(PROMPT), "negative": conditioning(LONG)}
TEXT = [len(RUN[name][0][0][0]) for name in ("positive", "negative")]
PLANS = {
    "whole steps at 0.5": (WHOLE, {"budget": 0.5}),
    "whole steps at 0.3": (WHOLE, {"budget": 0.3}),
}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A small Wan of random weights with four heads, in one of ComfyUI's folders; beside it one of VACE."""
    folder = tmp_path_factory.mktemp("models")
    save_file(random_weights(_wan("WanModel")), folder / MODEL)
    vace = {"model_type": "vace", "vace_layers": 2, "vace_in_dim": 96}
    save_file(random_weights(_wan("VaceWanModel", **vace)), folder / VACE)
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    return folder / MODEL


def _wan(kind, **others):
    settings = {**SIZES, "dtype": torch.float32, "text_dim": 4096}
    return getattr(wan, kind)(operations=comfy.ops.disable_weight_init, **settings, **others)


@pytest.fixture(scope="module")
def cluster():
    host = current_host()
    assert host is not None
    cluster = Cluster(Path(RAYLIGHT).expanduser(), host.tree, on_cpu=True)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def two(cluster, model_file):
    """RAY_ACTORS of two workers that divide the tokens."""
    actors = cluster.start(2, Division(ulysses=2))
    return cluster.load(actors, MODEL)


def run(actors, **changes):
    return sample_by_raylight(actors, latent=torch.zeros(SHAPE), **{**RUN, **changes})


def on_each(actors, **changes):
    """The latents of every rank."""
    settings = {**RUN, **changes}
    calls = [
        worker.common_ksampler.remote(
            0, settings["steps"], settings["cfg"], settings.get("sampler", "euler"), "simple",
            settings["positive"], settings["negative"], {"samples": settings.get("latent", torch.zeros(SHAPE))},
        )
        for worker in actors["workers"]
    ]  # fmt: skip
    return [result[0]["samples"] for result in ray.get(calls)]


def left_behind(cluster):
    """Parts of the pack in the workers: a plan on the model, patched blocks, objects of runs."""

    def look(model):
        import gc

        gc.collect()
        kinds = ("Run", "CondState", "ResidualStore", "PlanAttachment", "WorkerRanks")
        left = [type(each).__name__ for each in gc.get_objects() if type(each).__name__ in kinds]
        left += [str(key) for keys in model.wrappers.values() for key in keys if "astraea" in str(key)]
        left += [key for key in model.model_options.get("transformer_options", {}) if "astraea" in str(key)]
        return left + ["forward" for block in model.model.diffusion_model.blocks if "forward" in vars(block)]

    return [name for names in cluster.in_all(look) for name in names]


@pytest.fixture(scope="module")
def here(model_file):
    """The same model in this process."""
    return comfy.sd.load_diffusion_model(str(model_file))


@pytest.fixture(scope="module")
def dense(two):
    return run(two)


def accelerate(actors, schedule=WHOLE, **plan):
    handle = ReportHandle()
    return accelerate_workers(actors, make_plan(schedule, **plan), handle), handle


def assert_close(result, expected):
    decibels = psnr(expected, result)
    print(f"{decibels:.1f} dB")
    assert decibels >= 120.0


def bytes_of(report, ranks):
    """Bytes that leave a rank in a run, by the formula."""
    computed = [call for call in report.calls if call.kind != "reuse"]
    return sum(
        ulysses_bytes(
            tokens=TOKEN_COUNT,
            ranks=ranks,
            dim=SIZES["dim"],
            layers=SIZES["num_layers"],
            rows=1,
            itemsize=4,
            text=TEXT[index % 2],
            share=call.computed / call.tokens,
        )
        for index, call in enumerate(computed)
    )


def sent(traffic):
    """Bytes that each rank sent for the model, without what ranks agree on."""
    return [sum(each["bytes"].values()) - each["bytes"].get("all_reduce", 0) for each in traffic]
