"""Report on every backend for one kind of call on one device: its errors and its time, or why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import autotune, autotune_cache
from .dispatch import AUTO, FAST, Choice, Dispatcher
from .problem import MANY_QUERIES, Problem


@dataclass(frozen=True)
class BackendRow:
    """One backend. milliseconds: of the sample that `autotune` takes; reason: why it is not used, "" if it can be."""

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
    """All backends for one kind of call, and the choices under `auto` and `fast`."""

    problem: Problem
    rows: tuple[BackendRow, ...]
    choice: Choice
    fast: Choice


def explain(dispatcher: Dispatcher, problem: Problem) -> Explanation:
    """Test and time every backend that can compute such calls, on random tensors of the problem's size."""
    generator = torch.Generator().manual_seed(0)
    kind = Problem(**{**vars(problem), "batch": 1, "queries": min(problem.queries, MANY_QUERIES)})
    shape = (kind.heads, kind.head_dim)
    q, k, v = (
        torch.randn(1, rows, *shape, generator=generator).to(kind.dtype).to(kind.device)
        for rows in (kind.queries, kind.keys, kind.keys)
    )
    reasons = {backend.name: dispatcher.unsupported_reason(backend, kind) for backend in dispatcher.backends}
    able = [backend for backend in dispatcher.backends if not reasons[backend.name]]
    key = autotune_cache.key(kind, "explained")
    times = autotune.time_backends(able, q, k, v, scale=kind.head_dim**-0.5, need_lse=kind.need_lse, key=key)
    choice, fast = (dispatcher.choose(q, k, v, kind, preference) for preference in (AUTO, FAST))
    rows = []
    for backend in dispatcher.backends:
        reason = reasons[backend.name]
        ran = not backend.unsupported_reason(kind)
        result = dispatcher.selftest_result(backend, kind) if ran else None
        spent = times.get(backend.name)
        rows.append(
            BackendRow(
                backend.name,
                backend.what,
                reason or (spent if isinstance(spent, str) else ""),
                backend.exact,
                result.output_error if result else None,
                result.lse_error if result else None,
                spent if isinstance(spent, float) else None,
                backend.name == choice.backend.name,
            )
        )
    return Explanation(problem, tuple(rows), choice, fast)


def format_table(explanation: Explanation) -> str:
    """Format the report as text for users."""
    problem = explanation.problem
    dtype = str(problem.dtype).removeprefix("torch.")
    queries = min(problem.queries, MANY_QUERIES)
    lines = [
        f"Attention on {autotune_cache.device_name(problem.device)}, {dtype}, "
        f"{'with' if problem.need_lse else 'without'} log-sum-exp",
        f"{queries} queries over {problem.keys} keys, {problem.heads} heads of {problem.head_dim}; "
        f"{autotune_cache.versions()}",
        "",
        f"  {'backend':<14}{'ms':>9}  {'output error':>12}  {'lse error':>9}  note",
    ]
    for row in explanation.rows:
        note = row.reason or ("" if row.exact else "approximate: only under 'fast' or by name")
        lines.append(
            f"{'*' if row.chosen else ' '} {row.name:<14}{_format(row.milliseconds, '.3f'):>9}  "
            f"{_format(row.output_error, '.1e'):>12}  {_format(row.lse_error, '.1e'):>9}  {note}".rstrip()
        )
    lines += ["", f"* auto: '{explanation.choice.backend.name}', {explanation.choice.why}"]
    if explanation.fast.backend.name != explanation.choice.backend.name:
        lines.append(f"  fast: '{explanation.fast.backend.name}', {explanation.fast.why}")
    lines.append(f"  choices are saved in {autotune_cache.path()}")
    return "\n".join(lines)


def _format(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
