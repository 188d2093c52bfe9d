"""Starts raylight's workers on this machine and calls its own nodes. Needs Ray, xfuser 0.4.5 and a copy of raylight.

ComfyUI must run in this process already. Ray 2.60 and later writes a token file into the home folder once.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER_SIDE = Path(__file__).resolve().parent / "worker_side"
ATTENTION_ON_CPU = "TORCH_MATH"


@dataclass(frozen=True)
class Division:
    """Division of the work by raylight, in the names of its initializer. attention: one of xFuser's kinds."""

    ulysses: int = 1
    ring: int = 1
    cfg: int = 1
    attention: str = ATTENTION_ON_CPU

    @property
    def gpus(self) -> int:
        return self.ulysses * self.ring * self.cfg

    @property
    def name(self) -> str:
        degrees = (("Ulysses", self.ulysses), ("ring", self.ring), ("cfg", self.cfg))
        return " × ".join(f"{name} {degree}" for name, degree in degrees if degree > 1) or "alone"

    def settings(self, gpus: int) -> dict[str, Any]:
        """Return what raylight's initializer gives its workers."""
        return {
            "is_xdit": self.ulysses * self.ring * self.cfg > 1,
            "is_fsdp": False,
            "sync_ulysses": False,
            "global_world_size": gpus,
            "shard_size": gpus,
            "use_group_process_group": False,
            "use_mmap": False,
            "pp_degree": 1,
            "dp_degree": 0,
            "ulysses_degree": self.ulysses,
            "ring_degree": self.ring,
            "cfg_degree": self.cfg,
            "attention": self.attention,
            "clear_vram_after_sampling": False,
        }


class Cluster:
    """Ray on this machine with raylight's workers: on GPUs, or on the CPU with one thread each."""

    def __init__(self, raylight: Path, comfyui: Path, *, on_cpu: bool):
        self._ray = importlib.import_module("ray")
        paths = [str(WORKER_SIDE), str(comfyui), str(raylight / "src")]
        sys.path[1:1] = [path for path in paths if path not in sys.path]
        self._on_cpu = on_cpu
        self.actors: list[Any] = []
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        variables = {"PYTHONPATH": os.pathsep.join(paths), "MASTER_ADDR": "127.0.0.1"}
        # raylight's initializer does so, too.
        variables["RAYLIGHT_COMFY_CLI_ARGS_JSON"] = json.dumps({"disable_pinned_memory": True})
        if on_cpu:
            variables["OMP_NUM_THREADS"] = "1"
        self._ray.init(
            address="local",  # else it joins a cluster that runs on this machine for something else
            num_cpus=16 if on_cpu else None,
            include_dashboard=False,
            log_to_driver=bool(os.environ.get("ASTRAEA_RAYLIGHT_LOG")),
            runtime_env={"env_vars": variables},
        )

    def start(self, gpus: int, division: Division, **options: Any) -> dict[str, Any]:
        """Start workers; returns RAY_ACTORS without a model. options: of the CPU's workers."""
        name, kind = ("cpu_worker", "CpuWorker") if self._on_cpu else (f"{RAYLIGHT_WORKER}", "RayWorker")
        worker = self._ray.remote(getattr(importlib.import_module(name), kind))
        resources: dict[str, Any] = {"num_cpus": 1} if self._on_cpu else {"num_gpus": 1}
        settings = division.settings(gpus)
        # A port of their own: workers that were ended may hold theirs for a while.
        resources["runtime_env"] = {"env_vars": {"MASTER_PORT": str(_free_port())}}
        self.actors = [
            worker.options(**resources).remote(local_rank=rank, device_id=0, parallel_dict=settings, **options)
            for rank in range(gpus)
        ]
        self._ray.get([actor.__ray_ready__.remote() for actor in self.actors])
        return {"workers": self.actors}

    def load(self, actors: dict[str, Any], model: str, dtype: str = "default") -> dict[str, Any]:
        """Load a model of ComfyUI's folder with raylight's own loader node, in a type it knows; returns RAY_ACTORS."""
        loader = importlib.import_module("raylight.nodes").RayUNETLoader()
        return loader.load_ray_unet([actors, None], model, dtype)[0]

    def in_all(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function with each worker's MODEL; it must stand by itself, as Ray sends it."""
        called = [actor.model_function_runner_get_values.remote(function, *arguments) for actor in self.actors]
        return list(self._ray.get(called))

    def count_traffic(self) -> None:
        def begin(model: Any) -> None:
            import traffic

            traffic.count()

        self.in_all(begin)

    def traffic(self) -> list[dict[str, Any]]:
        """Return what each worker has sent since, see `traffic.counted`."""

        def read(model: Any) -> dict[str, Any]:
            import traffic

            return traffic.counted()

        return self.in_all(read)

    def end_workers(self) -> None:
        for actor in self.actors:
            self._ray.kill(actor)
        self.actors = []

    def close(self) -> None:
        self.end_workers()
        self._ray.shutdown()


RAYLIGHT_WORKER = "raylight.distributed_worker.ray_worker"


def sample(
    actors: dict[str, Any],
    *,
    steps: int,
    cfg: float,
    positive: Sequence,
    negative: Sequence,
    latent: Any,
    sampler: str = "euler",
    seed: int = 0,
) -> Any:
    """Sample with raylight's own sampler node; returns the latents."""
    node = importlib.import_module("raylight.nodes").XFuserKSamplerAdvanced()
    latents, _ = node.ray_sample(
        actors,
        "enable",
        seed,
        steps,
        cfg,
        sampler,
        "simple",
        positive,
        negative,
        {"samples": latent},
        0,
        10000,
        "disable",
    )
    return latents["samples"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
