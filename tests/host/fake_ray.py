"""A stand-in for Ray: actors that make their calls one after another, each in a thread of its own.

What the pack uses of Ray behaves as Ray does: handles, errors that carry their cause, `get`, `wait`, dead actors.
"""

from __future__ import annotations

import queue
import threading
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception):
        super().__init__(f"in a worker: {cause}")
        self.cause = cause


class RayActorError(RayError):
    pass


class GetTimeoutError(RayError, TimeoutError):
    pass


class Handle:
    """Of a result. Ready once its event is set."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: Any = None
        self.error: Exception | None = None


class Method:
    def __init__(self, actor: Actor, function: Callable[..., Any]):
        self.name = function.__name__
        self._actor, self._function = actor, function

    def remote(self, *args: Any, **kwargs: Any) -> Handle:
        return self._actor.submit(self._function, args, kwargs)


class Actor:
    """An actor of an object; `log` gets the names of all actors' calls as they begin."""

    def __init__(self, name: str, subject: Any, log: list[tuple[str, str]]):
        self.name, self.subject, self.log = name, subject, log
        self.dead = False
        self._calls: queue.Queue = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def __getattr__(self, name: str) -> Method:
        return Method(self, getattr(self.subject, name))

    def __reduce__(self) -> Any:
        return str, (f"actor {self.name}",)

    def submit(self, function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Handle:
        handle = Handle()
        self._calls.put((handle, function, args, kwargs))
        return handle

    def close(self) -> None:
        """End its thread, which would keep the object alive."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            handle, function, args, kwargs = call
            what = args[2] if function.__name__ == "model_function_runner_get_values" else function.__name__
            self.log.append((self.name, what))
            try:
                if self.dead:
                    raise RayActorError("the actor died")
                with torch.inference_mode():
                    handle.value = function(*args, **kwargs)
            except RayActorError as error:
                handle.error = error
            except Exception as error:
                handle.error = RayTaskError(error)
            handle.done.set()
            del call, handle, function, args, kwargs


def get(handle: Handle, timeout: float | None = None) -> Any:
    if not handle.done.wait(timeout):
        raise GetTimeoutError("no answer yet")
    if handle.error is not None:
        raise handle.error
    return handle.value


def wait(
    handles: Sequence[Handle], *, num_returns: int = 1, timeout: float | None = None
) -> tuple[list[Handle], list[Handle]]:
    until = time.monotonic() + (timeout or 0.0)
    while sum(handle.done.is_set() for handle in handles) < num_returns and time.monotonic() < until:
        time.sleep(0.005)
    ready = [handle for handle in handles if handle.done.is_set()][:num_returns]
    return ready, [handle for handle in handles if handle not in ready]


def module() -> types.ModuleType:
    """The module `ray`."""
    ray = types.ModuleType("ray")
    exceptions = types.SimpleNamespace(
        RayError=RayError, RayTaskError=RayTaskError, RayActorError=RayActorError, GetTimeoutError=GetTimeoutError
    )
    vars(ray).update(get=get, wait=wait, exceptions=exceptions, is_initialized=lambda: True)
    return ray
