"""Every backend on one device and one kind of call: whether it can be used, why not, its self-test, its time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import autotune, autotune_cache
from .dispatch import AUTO, FAST, Choice, Dispatcher
from .problem import MANY_QUERIES, Problem


@dataclass(frozen=True)
class Line:
    """One backend. milliseconds are those of the sample that `kernels.autotune` takes; reason: why it is not used."""

    name: str
    what: str
    reason: str
    exact: bool
    output_error: float | None
    lse_error: float | None
    milliseconds: float | None
    chosen: bool


@dataclass(frozen=True)
class Explanation:
    """All backends for one kind of call, and which one `auto` and `fast` take."""

    problem: Problem
    lines: tuple[Line, ...]
    choice: Choice
    fast: Choice


def explain(dispatcher: Dispatcher, problem: Problem, seed: int = 0) -> Explanation:
    """Checks and times every backend that can compute such calls, on random tensors of the problem's size."""
    generator = torch.Generator().manual_seed(seed)
    kind = Problem(**{**vars(problem), "batch": 1, "queries": min(problem.queries, MANY_QUERIES)})
    shape = (kind.heads, kind.head_dim)
    q, k, v = (
        torch.randn(1, rows, *shape, generator=generator).to(kind.dtype).to(kind.device)
        for rows in (kind.queries, kind.keys, kind.keys)
    )
    reasons = {backend.name: dispatcher.unsupported_reason(backend, kind) for backend in dispatcher.backends}
    able = [backend for backend in dispatcher.backends if not reasons[backend.name]]
    key = autotune_cache.key(kind, "explained")
    times = autotune.milliseconds(able, q, k, v, scale=kind.head_dim**-0.5, need_lse=kind.need_lse, key=key)
    choice, fast = (dispatcher.choose(q, k, v, kind, preference) for preference in (AUTO, FAST))
    lines = []
    for backend in dispatcher.backends:
        reason = reasons[backend.name]
        ran = not backend.unsupported_reason(kind)
        verdict = dispatcher.verdict(backend, kind) if ran else None
        spent = times.get(backend.name)
        lines.append(
            Line(
                backend.name,
                backend.what,
                reason or (spent if isinstance(spent, str) else ""),
                backend.exact,
                verdict.output_error if verdict else None,
                verdict.lse_error if verdict else None,
                spent if isinstance(spent, float) else None,
                backend.name == choice.backend.name,
            )
        )
    return Explanation(problem, tuple(lines), choice, fast)


def as_text(explanation: Explanation) -> str:
    """The table that a user reads."""
    problem = explanation.problem
    dtype = str(problem.dtype).removeprefix("torch.")
    rows = min(problem.queries, MANY_QUERIES)
    lines = [
        f"Attention on {autotune_cache.device_name(problem.device)}, {dtype}, "
        f"{'with' if problem.need_lse else 'without'} log-sum-exp",
        f"{rows} queries over {problem.keys} keys, {problem.heads} heads of {problem.head_dim}; "
        f"{autotune_cache.versions()}",
        "",
        f"  {'backend':<14}{'ms':>9}  {'output error':>12}  {'lse error':>9}  note",
    ]
    for line in explanation.lines:
        note = line.reason or ("" if line.exact else "approximate: only where 'fast' is asked for")
        lines.append(
            f"{'*' if line.chosen else ' '} {line.name:<14}{_number(line.milliseconds, '.3f'):>9}  "
            f"{_number(line.output_error, '.1e'):>12}  {_number(line.lse_error, '.1e'):>9}  {note}".rstrip()
        )
    lines += ["", f"* auto: '{explanation.choice.backend.name}', {explanation.choice.why}"]
    if explanation.fast.backend.name != explanation.choice.backend.name:
        lines.append(f"  fast: '{explanation.fast.backend.name}', {explanation.fast.why}")
    lines.append(f"  choices are kept in {autotune_cache.path()}")
    return "\n".join(lines)


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
