"""The in-process tier: ComfyUI imported into the test process, on the CPU, with the easy model.

ASTRAEA_TEST_GPU=1 lets it use the GPU instead.

One ComfyUI version per process. Its folders (output, user, ...) are a temporary base directory, so that the user's
installation stays as it was.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from hosts import HOST_VARIABLE, HOW_TO, current_host

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

TINY_MODEL = Path(__file__).resolve().parents[2] / "tiny" / "astraea_tiny_wan_fp16.safetensors"
GPU_VARIABLE = "ASTRAEA_TEST_GPU"
HOST = current_host()


def start_host() -> str | None:
    """Makes `import comfy` work as inside main.py; returns why it cannot, or None."""
    if HOST is None:
        return f"No ComfyUI was found.\n{HOW_TO}"
    base = tempfile.mkdtemp(prefix="comfyui-host-tier-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    device = [] if os.environ.get(GPU_VARIABLE) else ["--cpu"]
    sys.argv = ["main.py", *device, "--use-pytorch-cross-attention", "--disable-api-nodes", "--base-directory", base]
    # In front: ComfyUI's own `utils`, `nodes` and `server` must win over anything of the same name.
    sys.path.insert(0, str(HOST.tree))
    try:
        importlib.import_module("utils")  # first, as in main.py: older `nodes` put a folder with a utils.py in front
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.sd")
        importlib.import_module("comfy.sample")
    except ImportError as error:
        if HOST_VARIABLE in os.environ:
            raise  # started for this host: then not being able to run is a failure
        return f"{sys.executable} cannot import ComfyUI {HOST.version} from {HOST.tree}: {error}\n{HOW_TO}"
    return None


torch.set_num_threads(int(os.environ.get("ASTRAEA_TEST_THREADS", "2")))
MISSING = start_host()


def pytest_ignore_collect() -> bool | None:
    """Without a host nothing is collected here: the test files import comfy at their top."""
    return True if MISSING else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if MISSING:
        terminalreporter.section("tests/host SKIPPED", red=True)
        terminalreporter.write_line(MISSING)


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    """ComfyUI's prompt worker runs everything in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def host_version() -> tuple[int, ...]:
    """The running ComfyUI as (0, 3, 64)."""
    assert HOST is not None
    return HOST.version_tuple


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the easy model, so that one session sees one model even while it is being trained."""
    return Path(shutil.copy(TINY_MODEL, tmp_path_factory.mktemp("model")))


@pytest.fixture
def load_tiny(tiny_model_path: Path) -> Iterator[Callable[..., ModelPatcher]]:
    """`load_tiny(dtype=None)`: a fresh MODEL of the easy checkpoint, unloaded after the test."""
    import comfy.model_management
    import comfy.sd

    def load(dtype: torch.dtype | None = None) -> ModelPatcher:
        options = {} if dtype is None else {"dtype": dtype}
        return comfy.sd.load_diffusion_model(str(tiny_model_path), model_options=options)

    yield load
    comfy.model_management.unload_all_models()
