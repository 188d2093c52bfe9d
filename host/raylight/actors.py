"""Calls of the pack's functions in raylight's workers, and their failures in words."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from comfy.model_management import InterruptProcessingException, throw_exception_if_processing_interrupted

from ...errors import WorkerError

PACK_FOLDER = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 60.0  # the first time a worker also loads the pack
POLL_SECONDS = 0.1  # between looks at the user's interrupt
START_ANEW = "Start the workers anew: change a value of raylight's node Ray Init Actor, or restart ComfyUI"
MAX_REASON_LENGTH = 400


class Actors:
    """Ray's actors of raylight's workers, by rank."""

    def __init__(self, actors: Sequence[Any]):
        self.all = list(actors)
        self._ray = importlib.import_module("ray")
        self._call_pack = _pack_function()

    def __len__(self) -> int:
        return len(self.all)

    def name(self, rank: int) -> str:
        """Return what users call a worker: "GPU 2 of 4"."""
        return f"GPU {rank + 1} of {len(self)}"

    def send(self, rank: int, function: str, *arguments: Any) -> Any:
        """Have a worker call a function of `in_worker` with its MODEL and plain data; returns Ray's handle."""
        return self.call(
            rank, "model_function_runner_get_values", self._call_pack, str(PACK_FOLDER), function, *arguments
        )

    def call(self, rank: int, method: str, *arguments: Any) -> Any:
        """Have a worker call one of its methods; returns Ray's handle. Raises WorkerError where Ray itself is gone."""
        if not self._ray.is_initialized():  # Ray would start anew, without any worker
            raise WorkerError(f"Ray has been stopped. {START_ANEW}.")
        try:
            return getattr(self.all[rank], method).remote(*arguments)
        except Exception as error:
            raise WorkerError(f"The worker of {self.name(rank)} is gone. {START_ANEW}.") from error

    def in_all(self, function: str, *arguments: Any) -> list[Any]:
        """Call a function of `in_worker` in all workers, and return what each answers. Raises WorkerError."""
        return self.answers([self.send(rank, function, *arguments) for rank in range(len(self))])

    def answers(self, handles: Sequence[Any], seconds: float = ANSWER_SECONDS) -> list[Any]:
        """Return the values behind handles, one of each worker from the first on. Raises WorkerError."""
        until = time.monotonic() + seconds
        return [self.value(rank, handle, max(0.0, until - time.monotonic())) for rank, handle in enumerate(handles)]

    def value(self, rank: int, handle: Any, seconds: float) -> Any:
        """Return the value behind a worker's handle. Raises WorkerError, or the host's error for an interrupt."""
        until = time.monotonic() + seconds
        while not self.ready([handle], POLL_SECONDS) and time.monotonic() < until:
            throw_exception_if_processing_interrupted()
        try:
            return self._ray.get(handle, timeout=0.0)
        except self._ray.exceptions.RayError as error:
            if isinstance(getattr(error, "cause", None), InterruptedError):
                raise InterruptProcessingException from None
            raise WorkerError(self._in_words(rank, error)) from error

    def ready(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """Return a handle whose value is there, if there is one within these seconds."""
        return self._ray.wait(list(handles), timeout=seconds)[0]

    def all_end(self, handles: Sequence[Any], seconds: float) -> bool:
        """Tell whether all calls end within these seconds, in whatever way: then no worker hangs."""
        ended, pending = self._ray.wait(list(handles), num_returns=len(handles), timeout=seconds)
        for handle in ended:
            with contextlib.suppress(self._ray.exceptions.RayError):  # Ray shows errors that nobody has asked for
                self._ray.get(handle)
        return not pending

    def _in_words(self, rank: int, error: Exception) -> str:
        """Say which worker failed, why, and what to do."""
        which, exceptions = self.name(rank), self._ray.exceptions
        if isinstance(error, exceptions.RayActorError):
            return f"The worker of {which} has ended: it was stopped, or its memory ran out. {START_ANEW}."
        if isinstance(error, exceptions.GetTimeoutError):
            return f"The worker of {which} does not answer: it still computes, or waits for another GPU. {START_ANEW}."
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, FileNotFoundError) and str(PACK_FOLDER) in str(cause):
            return f"{which} has no Astraea in '{PACK_FOLDER}', where ComfyUI has it."
        reason = shorten(str(cause), MAX_REASON_LENGTH, placeholder=" …").rstrip(".:")
        named = f"{type(cause).__name__}: {reason}" if reason else type(cause).__name__
        return f"{reason if reason.startswith('GPU ') else f'{which}: {named}'}."


def _pack_function() -> Callable[..., Any]:
    """Return the function that runs in workers; defined within, so that Ray sends all of it: they have no pack yet."""

    def call_pack(model: Any, folder: str, function: str, *arguments: Any) -> Any:
        """Load the pack from its folder, once in a process, and call a function of its `in_worker`."""
        import importlib
        import importlib.util
        import os
        import sys

        package = "astraea_in_worker"
        if package not in sys.modules:
            path = os.path.join(folder, "bootstrap.py")
            spec: Any = importlib.util.spec_from_file_location("astraea_bootstrap", path)
            bootstrap = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(bootstrap)
            bootstrap.load_pack(package)
        module = importlib.import_module(f"{package}.host.raylight.in_worker")
        return getattr(module, function)(model, *arguments)

    return call_pack
