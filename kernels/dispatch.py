"""Chooses the backend of a call: the fastest that passed its self-test on this device, timed once and saved.

The environment variable ASTRAEA_ATTENTION overrides all preferences: `auto`, `host`, `fast` or a backend's name.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import autotune, autotune_cache, crash_guard, selftest
from .backend import AttentionOutput, Backend
from .backends import BACKENDS
from .key_tiles import KeyTiles
from .problem import Problem

ATTENTION_ENV = "ASTRAEA_ATTENTION"
AUTO, HOST, FAST = "auto", "host", "fast"
BACKEND_CHOICES = (AUTO, HOST, FAST, *(backend.name for backend in BACKENDS if backend.constraints.dense))
OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)  # general since torch 2.5
MAX_RATIO_TO_HOST = 0.95  # of the host's time: a backend that takes longer does not replace the host's attention


@dataclass(frozen=True)
class Choice:
    """The backend for calls of one kind, and why. milliseconds: times by backend; measured: timed in this process."""

    backend: Backend
    why: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    measured: bool = False

    def ratio_to(self, name: str) -> float | None:
        """Return the time of another backend over that of the choice; None where either was not timed."""
        own, other = self.milliseconds.get(self.backend.name), self.milliseconds.get(name)
        return other / own if own and other else None


class Dispatcher:
    """Self-test results and choices of a process. A backend that fails in a run is not used again."""

    def __init__(self, backends: Sequence[Backend] = BACKENDS):
        self.backends = tuple(backends)
        self._choices: dict[tuple[Problem, str, str], Choice] = {}
        self._results: dict[tuple[str, torch.device, torch.dtype, int, bool, bool], selftest.SelfTestResult] = {}
        self._failed: dict[tuple[str, torch.device], str] = {}

    def named(self, name: str) -> Backend | None:
        """Return the backend of that name, None if there is none."""
        return next((backend for backend in self.backends if backend.name == name), None)

    def unsupported_reason(self, backend: Backend, problem: Problem) -> str:
        """Return why a backend must not compute a call, its self-test included; "" if it may."""
        failed = self._failed.get((backend.name, problem.device), "")
        return failed or backend.unsupported_reason(problem) or self.selftest_result(backend, problem).reason

    def selftest_result(self, backend: Backend, problem: Problem) -> selftest.SelfTestResult:
        """Return the result of the self-test, which runs once for each device, dtype and head size."""
        key = (backend.name, problem.device, problem.dtype, problem.head_dim, problem.key_tiles, problem.rest)
        if key not in self._results:
            result = self._results[key] = crash_guard.check(backend, problem)
            if result.reason:
                logging.warning(f"Astraea: attention '{backend.name}' is not used here: {result.reason}")
        return self._results[key]

    def known(self, problem: Problem, preference: str = AUTO, host: Backend | None = None) -> Choice | None:
        """Return the choice for such calls if this process has made it."""
        return self._choices.get((problem.kind, _apply_override(preference), host.name if host else ""))

    def choose(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        problem: Problem,
        preference: str = AUTO,
        host: Backend | None = None,
        key_tiles: KeyTiles | None = None,
    ) -> Choice:
        """Return the choice for calls of this kind: known, saved on disk, or timed on these tensors.

        key_tiles: lists to time with; where the problem has lists and these are None, the first usable backend is
        taken. host: the host's own attention, which is kept unless a backend is clearly faster. While a CUDA graph is
        captured nothing is tested or timed, and the choice is not kept.
        """
        with autotune.TIMING:
            choice = self.known(problem, preference, host)
            if choice is None:
                preference = _apply_override(preference)
                choice = self._choose((q, k, v), problem, preference, host, key_tiles)
                if not _is_capturing(q.device):
                    self._choices[problem.kind, preference, host.name if host else ""] = choice
            return choice

    def _choose(
        self,
        tensors: tuple[Tensor, ...],
        problem: Problem,
        preference: str,
        host: Backend | None,
        key_tiles: KeyTiles | None,
    ) -> Choice:
        if preference == HOST and host is not None:
            return Choice(host, "asked for")
        preference = AUTO if preference == HOST else preference  # the host's attention cannot compute such calls
        if _is_capturing(problem.device):
            return self._choose_during_capture(problem, host)
        wanted = self.named(preference)
        if wanted is not None:
            reason = self.unsupported_reason(wanted, problem)
            if not reason:
                return Choice(wanted, "asked for")
            logging.warning(f"Astraea: attention '{preference}' cannot be used and another is: {reason}")
        if preference == FAST and all(
            backend.exact or self.unsupported_reason(backend, problem) for backend in self.backends
        ):
            preference = AUTO  # the backends are those of auto: no need to time them again
        key = autotune_cache.key(problem, f"{preference} with {host.name}" if host else preference)
        saved = self._read_choice(key, problem, host)
        if saved is not None:
            return saved
        able = [host] if host is not None else []
        for backend in self.backends:
            reason = "" if backend.exact or preference == FAST else "less accurate than its dtype: only under 'fast'"
            reason = backend.unsupported_reason(problem) or reason or self.unsupported_reason(backend, problem)
            if reason:
                logging.debug(f"Astraea: attention '{backend.name}' is not timed: {reason}")
            else:
                able.append(backend)
        return self._fastest(able, tensors, problem, key, host, key_tiles)

    def _fastest(
        self,
        able: list[Backend],
        tensors: tuple[Tensor, ...],
        problem: Problem,
        key: str,
        host: Backend | None,
        key_tiles: KeyTiles | None,
    ) -> Choice:
        racing = [backend for backend in able if not backend.last_resort] or able
        if len(racing) == 1 or (problem.key_tiles and key_tiles is None):
            return Choice(racing[0], "the first usable" if len(racing) > 1 else "the only usable")
        if problem.device.type != "cpu":
            logging.info("Astraea: timing this device's attention kernels, once: this takes some seconds.")
        scale = problem.head_dim**-0.5
        found = autotune.time_backends(
            racing, *tensors, scale=scale, need_lse=problem.need_lse, key=key, key_tiles=key_tiles
        )
        times = {name: value for name, value in found.items() if isinstance(value, float)}
        for name in found.keys() - times:
            logging.debug(f"Astraea: attention '{name}' was not timed: {found[name]}")
        if not times:
            return Choice(able[-1], "none could be timed")
        best = min(times, key=lambda name: times[name])
        if host is not None and times.get(host.name, 0.0) * MAX_RATIO_TO_HOST <= times[best]:
            best = host.name if host.name in times else best
        chosen = next(backend for backend in racing if backend.name == best)
        choice = Choice(chosen, "the fastest, timed", times, measured=True)
        autotune_cache.write(key, {"backend": best, "milliseconds": {name: round(ms, 4) for name, ms in times.items()}})
        logging.info(f"Astraea: {describe_choice(choice, problem)}")
        return choice

    def _choose_during_capture(self, problem: Problem, host: Backend | None) -> Choice:
        """Choose while a CUDA graph is captured, where nothing may wait for the device: only among tested backends."""
        if host is not None:
            return Choice(host, "a CUDA graph is being captured")
        kind = [problem.device, problem.dtype, problem.head_dim, problem.key_tiles, problem.rest]
        tested = {name for (name, *of), result in self._results.items() if of == kind and not result.reason}
        able = [backend for backend in self.backends if backend.exact and not backend.unsupported_reason(problem)]
        usable = [backend for backend in able if backend.name in tested or backend.last_resort]
        return Choice(usable[0], "a CUDA graph is being captured")

    def _read_choice(self, key: str, problem: Problem, host: Backend | None) -> Choice | None:
        """Return the choice of an earlier process if it can still be used."""
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

    def disable(self, backend: Backend, problem: Problem, error: Exception) -> None:
        """Stop using a backend that failed in a run, for the rest of this process."""
        reason = f"failed in a run: {type(error).__name__}: {selftest.first_line(error)}"
        with autotune.TIMING:
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
    ) -> AttentionOutput:
        """Compute attention by the chosen backend, see `kernels.attend`; where it fails, by another."""
        q, k, v = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (q, k, v))
        problem = Problem.of(q, k, v, need_lse=need_lse, key_tiles=key_tiles)
        scale = problem.head_dim**-0.5 if scale is None else scale
        if not 0.0 < scale < math.inf:
            raise ValueError(f"the scale of attention scores must be positive and finite, not {scale}")
        backend = self.choose(q, k, v, problem, preference, key_tiles=key_tiles).backend
        try:
            return backend(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles)
        except OUT_OF_MEMORY:
            raise
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            if backend.last_resort:
                raise
            self.disable(backend, problem, error)
        return self.attend(q, k, v, scale=scale, need_lse=need_lse, key_tiles=key_tiles, preference=preference)


def describe_choice(choice: Choice, problem: Problem) -> str:
    """Format a choice and the times behind it as one line of the log."""
    times = ", ".join(f"{name} {ms:.3g} ms" for name, ms in sorted(choice.milliseconds.items(), key=lambda t: t[1]))
    dtype = str(problem.dtype).removeprefix("torch.")
    lse = " with log-sum-exp" if problem.need_lse else ""
    return (
        f"attention{lse} over {problem.keys} tokens, {problem.heads} heads of {problem.head_dim}, {dtype} on "
        f"{autotune_cache.device_name(problem.device)}: '{choice.backend.name}' ({times})"
    )


def _apply_override(preference: str) -> str:
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


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
