"""Which backend computes a call: the fastest that passed its self-test on this device, timed once and remembered.

The environment variable ASTRAEA_ATTENTION overrides every wish: `auto`, `host`, `fast` or a backend's name.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import autotune, autotune_cache, crash_guard, selftest
from .backend import Attended, Backend
from .backends import aten, cpu, packages, reference, triton_backends
from .key_tiles import KeyTiles
from .problem import Problem

ATTENTION_ENV = "ASTRAEA_ATTENTION"
AUTO, HOST, FAST = "auto", "host", "fast"
BACKENDS: tuple[Backend, ...] = (
    *packages.BACKENDS,
    *aten.BACKENDS,
    *triton_backends.BACKENDS,
    *cpu.BACKENDS,
    reference.BACKEND,
)
BACKEND_CHOICES = (AUTO, HOST, FAST, *(backend.name for backend in BACKENDS))
OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)  # the general one since torch 2.5
WORTH_LEAVING_THE_HOST = 0.95  # of the host's time: a closer race goes to the host


@dataclass(frozen=True)
class Choice:
    """What computes calls of one kind, and why.

    milliseconds: what was timed, by backend; reasons: why the others were not; measured: timed in this process.
    """

    backend: Backend
    why: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    measured: bool = False

    def ratio_to(self, name: str) -> float | None:
        """How many times sooner the choice is than another that was timed with it."""
        own, other = self.milliseconds.get(self.backend.name), self.milliseconds.get(name)
        return other / own if own and other else None


class Dispatcher:
    """All verdicts and choices of a process. Backends that fail at work are not used again."""

    def __init__(self, backends: Sequence[Backend] = BACKENDS):
        self.backends = tuple(backends)
        self._choices: dict[tuple[Problem, str, str], Choice] = {}
        self._verdicts: dict[tuple[str, torch.device, torch.dtype, int], selftest.Evaluation] = {}
        self._failed: dict[tuple[str, torch.device], str] = {}
        self._lock = threading.RLock()

    def named(self, name: str) -> Backend | None:
        return next((backend for backend in self.backends if backend.name == name), None)

    def unsupported_reason(self, backend: Backend, problem: Problem) -> str:
        """Why a backend is not to compute a call, its self-test included; "" if it may."""
        failed = self._failed.get((backend.name, problem.device), "")
        return failed or backend.unsupported_reason(problem) or self.verdict(backend, problem).reason

    def verdict(self, backend: Backend, problem: Problem) -> selftest.Evaluation:
        """The self-test's outcome, once for each device, dtype and head size."""
        key = (backend.name, problem.device, problem.dtype, problem.head_dim)
        if key not in self._verdicts:
            verdict = self._verdicts[key] = crash_guard.check(backend, problem)
            if verdict.reason:
                logging.warning(f"Astraea: attention '{backend.name}' is not used here: {verdict.reason}")
        return self._verdicts[key]

    def known(self, problem: Problem, preference: str = AUTO, host: Backend | None = None) -> Choice | None:
        """The choice for such calls if it was made in this process."""
        return self._choices.get((problem.kind, _overridden(preference), host.name if host else ""))

    def choose(
        self, q: Tensor, k: Tensor, v: Tensor, problem: Problem, preference: str = AUTO, host: Backend | None = None
    ) -> Choice:
        """The backend for calls like this one; timed on these tensors where neither process nor disk knows.

        host: the host's own attention, which is kept unless another is clearly faster. While a CUDA graph is recorded
        nothing is tested or timed, and what was taken then is not kept.
        """
        with self._lock:
            choice = self.known(problem, preference, host)
            if choice is None:
                preference = _overridden(preference)
                choice = self._choose(q, k, v, problem, preference, host)
                if not _recording(q.device):
                    self._choices[problem.kind, preference, host.name if host else ""] = choice
            return choice

    def _choose(
        self, q: Tensor, k: Tensor, v: Tensor, problem: Problem, preference: str, host: Backend | None
    ) -> Choice:
        reasons: dict[str, str] = {}
        if preference == HOST and host is not None:
            return Choice(host, "asked for")
        if _recording(problem.device):
            return self._untested(problem, host)
        wanted = self.named(preference)
        if wanted is not None:
            reason = self.unsupported_reason(wanted, problem)
            if not reason:
                return Choice(wanted, "asked for")
            logging.warning(f"Astraea: attention '{preference}' cannot be used and another is: {reason}")
        if preference == FAST and all(
            backend.exact or self.unsupported_reason(backend, problem) for backend in self.backends
        ):
            preference = AUTO  # nothing would be gained but another race
        key = autotune_cache.key(problem, f"{preference} with {host.name}" if host else preference)
        recorded = self._recorded(key, problem, host)
        if recorded is not None:
            return recorded
        able = [host] if host is not None else []
        for backend in self.backends:
            reason = "" if backend.exact or preference == FAST else "not as accurate as its dtype: ask for 'fast'"
            reason = backend.unsupported_reason(problem) or reason or self.unsupported_reason(backend, problem)
            if reason:
                reasons[backend.name] = reason
            else:
                able.append(backend)
        return self._fastest(able, reasons, (q, k, v), problem, key, host)

    def _fastest(
        self,
        able: list[Backend],
        reasons: dict[str, str],
        tensors: tuple[Tensor, Tensor, Tensor],
        problem: Problem,
        key: str,
        host: Backend | None,
    ) -> Choice:
        racing = [backend for backend in able if not backend.last_resort] or able
        if len(racing) == 1 or problem.key_tiles:
            # Lists of key tiles differ from call to call: what is fastest on one says little.
            return Choice(racing[0], "the first that can" if len(racing) > 1 else "the only one that can", {}, reasons)
        if problem.device.type != "cpu":
            logging.info("Astraea: timing this device's attention kernels, once: it takes some seconds.")
        scale = problem.head_dim**-0.5
        found = autotune.milliseconds(racing, *tensors, scale=scale, need_lse=problem.need_lse, key=key)
        times = {name: value for name, value in found.items() if isinstance(value, float)}
        reasons |= {name: value for name, value in found.items() if isinstance(value, str)}
        if not times:
            return Choice(able[-1], "nothing else could be timed", {}, reasons)
        best = min(times, key=lambda name: times[name])
        if host is not None and times.get(host.name, 0.0) * WORTH_LEAVING_THE_HOST <= times[best]:
            best = host.name if host.name in times else best
        chosen = next(backend for backend in racing if backend.name == best)
        choice = Choice(chosen, "the fastest, timed", times, reasons, measured=True)
        autotune_cache.write(key, {"backend": best, "milliseconds": {name: round(ms, 4) for name, ms in times.items()}})
        logging.info(f"Astraea: {described(choice, problem)}")
        for name, reason in reasons.items():
            logging.debug(f"Astraea: attention '{name}' took no part: {reason}")
        return choice

    def _untested(self, problem: Problem, host: Backend | None) -> Choice:
        """While a CUDA graph is recorded: nothing may wait for the device, so only what is known to be right serves."""
        if host is not None:
            return Choice(host, "a CUDA graph is being recorded")
        place = (problem.device, problem.dtype, problem.head_dim)
        tested = {
            name for (name, *where), verdict in self._verdicts.items() if tuple(where) == place and not verdict.reason
        }
        able = [backend for backend in self.backends if backend.exact and not backend.unsupported_reason(problem)]
        sure = [backend for backend in able if backend.name in tested or backend.last_resort]
        return Choice(sure[0], "a CUDA graph is being recorded")

    def _recorded(self, key: str, problem: Problem, host: Backend | None) -> Choice | None:
        """What an earlier process chose, if it can still be used."""
        entry = autotune_cache.read().get(key, {})
        name, times = entry.get("backend"), entry.get("milliseconds")
        if not isinstance(name, str) or not isinstance(times, dict):
            return None
        if not all(isinstance(value, int | float) and value > 0 for value in times.values()):
            return None
        backend = host if host is not None and host.name == name else self.named(name)
        if backend is None or (backend is not host and self.unsupported_reason(backend, problem)):
            return None
        return Choice(backend, "the fastest, timed earlier", times)

    def fail(self, backend: Backend, problem: Problem, error: Exception) -> None:
        """A backend broke at work: never again in this process."""
        reason = f"failed at work: {type(error).__name__}: {str(error).strip().splitlines()[:1]}"
        with self._lock:
            self._failed[backend.name, problem.device] = reason
            self._choices = {key: c for key, c in self._choices.items() if c.backend.name != backend.name}
        logging.warning(f"Astraea: attention '{backend.name}' {reason}; another takes its place.")

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        need_lse: bool = False,
        key_tiles: KeyTiles | None = None,
        preference: str = AUTO,
    ) -> Attended:
        """See `kernels.attend`."""
        q, k, v = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (q, k, v))
        problem = Problem.of(q, k, v, need_lse=need_lse, key_tiles=key_tiles is not None)
        scale = problem.head_dim**-0.5 if scale is None else scale
        if not 0.0 < scale < math.inf:
            raise ValueError(f"the scale of attention scores must be positive and finite, not {scale}")
        backend = self.choose(q, k, v, problem, preference).backend
        try:
            return backend(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles)
        except OUT_OF_MEMORY:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            if backend.last_resort:
                raise
            self.fail(backend, problem, error)
        return self.attend(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles, preference=preference)


def described(choice: Choice, problem: Problem) -> str:
    """One line for the log: what was chosen among what."""
    times = ", ".join(f"{name} {ms:.3g} ms" for name, ms in sorted(choice.milliseconds.items(), key=lambda t: t[1]))
    dtype = str(problem.dtype).removeprefix("torch.")
    lse = " with log-sum-exp" if problem.need_lse else ""
    return (
        f"attention{lse} over {problem.keys} tokens, {problem.heads} heads of {problem.head_dim}, {dtype} on "
        f"{autotune_cache.device_name(problem.device)}: '{choice.backend.name}' ({times})"
    )


def _overridden(preference: str) -> str:
    override = os.environ.get(ATTENTION_ENV, "").strip().lower()
    if not override:
        return preference
    if override not in BACKEND_CHOICES:
        _warn_once(f"Astraea: {ATTENTION_ENV}={override} is unknown; known are {', '.join(BACKEND_CHOICES)}.")
        return preference
    return override


_warned: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        logging.warning(text)


def _recording(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
