"""raylight's worker on a CPU: the same class, with CUDA's calls at its start replaced and gloo instead of NCCL.

Imported in the workers' processes by its file name: this folder is on their PYTHONPATH, with ComfyUI and raylight.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import comfy.cli_args

comfy.cli_args.args.cpu = True  # before ComfyUI looks for a device

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

_is_available = torch.cuda.is_available
torch.cuda.is_available = lambda: True  # else xFuser defines its attention without the class that it is made of
try:
    import raylight  # noqa: F401
finally:
    torch.cuda.is_available = _is_available

from raylight.distributed_worker.ray_worker import RayWorker  # noqa: E402


class CpuWorker(RayWorker):
    """A worker whose device is the CPU. seconds: time-out of all communication, which torch has at half an hour."""

    def __init__(self, *args: Any, threads: int = 1, seconds: float = 60.0, **kwargs: Any):
        torch.set_num_threads(threads)
        start, new_group, mesh = dist.init_process_group, dist.new_group, dist.device_mesh.init_device_mesh
        timeout = timedelta(seconds=seconds)
        dist.new_group = lambda ranks=None, **options: new_group(ranks, **{**options, "timeout": timeout})

        def init_process_group(backend: str, **options: Any) -> None:
            start("gloo", **{**options, "timeout": timeout})

        torch.cuda.get_device_capability = lambda *_: (9, 0)
        dist.init_process_group = init_process_group
        dist.device_mesh.init_device_mesh = lambda device, **options: mesh("cpu", **options)
        super().__init__(*args, **kwargs)
