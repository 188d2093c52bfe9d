"""Timing of the attention benchmark: stopwatch, races in turns, ceilings, and the calls that are timed.

Times are raw here; tables.py derives the rest from them. Import after the pack was loaded.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from astraea.engine.blocks.selection import selected_count
from astraea.kernels import DISPATCHER, Backend, Choice, Problem, attend, selftest

from .tables import SDPA, operations

COVER_BYTES = 1 << 30
MIN_ROUNDS = 3
SLOW, SLOW_EVERY = 1.8, 4  # times the fastest: takes part in every fourth round only
INPUT_BYTES = 4 << 30  # of alternating inputs
GPU_SHARES = (0.05, 0.25, 0.5, 0.75, 1.0)
CPU_SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
SHARES_WITH_LSE = (0.25, 1.0)  # enough to see what the log-sum-exp costs, and whether it is linear
Work = Callable[[int], object]
"""work(turn): one call; the turn selects one of several inputs."""


@dataclass(frozen=True)
class Case:
    """One thing that is timed: M = `queries` rows, `share` of all, by `entrant`."""

    entrant: str
    need_lse: bool
    share: float
    queries: int


Times = dict[Case, dict[int, float]]
"""Milliseconds by round."""


@dataclass(frozen=True)
class Shape:
    """Self-attention of one clip: N tokens, H heads of D."""

    tokens: int
    heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def label(self) -> str:
        return f"N {self.tokens}, H {self.heads}, D {self.head_dim}, {dtype_name(self.dtype)}"

    @property
    def operations(self) -> float:
        return operations(self.tokens, self.tokens, self.heads, self.head_dim)

    def problem(self, device: torch.device, need_lse: bool) -> Problem:
        return Problem(device, self.dtype, 1, self.tokens, self.tokens, self.heads, self.head_dim, need_lse)

    def described(self) -> dict[str, Any]:
        sizes = {"tokens": self.tokens, "heads": self.heads, "head_dim": self.head_dim}
        return {"label": self.label, **sizes, "dtype": dtype_name(self.dtype)}


def queries_of(share: float, tokens: int) -> int:
    """M as the engine selects it; all rows for a share of 1, which need not be a multiple of its granularity."""
    return tokens if share >= 1.0 else selected_count(share, tokens)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Stopwatch:
    """Milliseconds of one call: CUDA events, elsewhere the wall clock.

    On a GPU a large write comes first: it empties the L2 cache and takes longer than launching the call, so that the
    device's time is measured, not the host's.
    """

    def __init__(self, device: torch.device, *, cover: bool = True):
        self._device = device
        covered = cover and device.type == "cuda"
        self._cover = torch.empty(COVER_BYTES, dtype=torch.uint8, device=device) if covered else None

    def __call__(self, work: Callable[[], object]) -> float:
        if self._device.type != "cuda":
            start = time.perf_counter()
            work()
            return (time.perf_counter() - start) * 1000.0
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if self._cover is not None:
            self._cover.zero_()
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)


def race(
    works: Mapping[Case, Work],
    stopwatch: Callable[[Callable[[], object]], float],
    *,
    rounds: int,
    until: float,
    slow: float = SLOW,
) -> tuple[Times, dict[str, str]]:
    """Times of all cases, in turn within each round, and the failures by entrant.

    Every other round goes backwards, so that clock drift favours none. until: on `time.monotonic`; at least MIN_ROUNDS
    are run. Entrants far behind the fastest take part in every fourth round only.
    """
    warm: dict[Case, float] = {}
    times: Times = {}
    failures: dict[str, str] = {}
    turns = count()

    def run(case: Case) -> float | None:
        try:
            return stopwatch(partial(works[case], next(turns)))
        except Exception as error:  # out of memory, most likely: this case only
            failures[case.entrant] = f"M/N {case.share:g}: {type(error).__name__}: {str(error).strip()[:120]}"
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return None

    for case in works:
        if run(case) is not None and (spent := run(case)) is not None:
            warm[case] = spent
    rarely = _slow(warm, slow)
    for number in range(rounds):
        if number >= MIN_ROUNDS and time.monotonic() > until:
            break
        for case in list(warm) if number % 2 == 0 else list(warm)[::-1]:
            if (case.entrant, case.need_lse) in rarely and number % SLOW_EVERY:
                continue
            if (spent := run(case)) is not None:
                times.setdefault(case, {})[number] = spent
    return times, failures


def _slow(warm: Mapping[Case, float], limit: float) -> set[tuple[str, bool]]:
    """Entrants whose call with most queries took far longer than the fastest."""
    most = max((case.queries for case in warm), default=0)
    whole = {(case.entrant, case.need_lse): spent for case, spent in warm.items() if case.queries == most}
    return {key for key, spent in whole.items() if spent > limit * min(whole.values())}


def rows_of(times: Times) -> list[dict[str, Any]]:
    """Raw rows for a result."""
    return [
        {
            "entrant": case.entrant,
            "need_lse": case.need_lse,
            "share": case.share,
            "queries": case.queries,
            "ms": statistics.median(by_round.values()),
            "ms_by_round": {str(number): round(spent, 5) for number, spent in by_round.items()},
        }
        for case, by_round in times.items()
    ]


def random_qkv(shape: Sequence[int], dtype: torch.dtype, device: torch.device, seed: int) -> tuple[Tensor, ...]:
    """Random q, k, v `[1, N, H, D]`, generated on the device: some sizes would take the host minutes."""
    generator = torch.Generator(device).manual_seed(seed)
    return tuple(torch.randn(1, *shape, generator=generator, device=device, dtype=dtype) for _ in range(3))


def ceilings(device: torch.device, size: int, copy_bytes: int, seed: int, rounds: int = 20) -> dict[str, Any]:
    """The device's best rates: a matrix product of random numbers, and a copy (bytes read plus written)."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator(device).manual_seed(seed)
    a, b = (torch.randn(size, size, generator=generator, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    source, target = (torch.zeros(copy_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    stopwatch = Stopwatch(device)
    works: list[Callable[[], object]] = [lambda: torch.mm(a, b, out=out), lambda: target.copy_(source)]
    spent = [statistics.median([stopwatch(work) for _ in range(rounds + 3)][3:]) for work in works]
    return {
        "matmul": f"{size}³, {str(dtype).removeprefix('torch.')}",
        "matmul_teraflops": 2.0 * size**3 / spent[0] / 1e9,
        "copy": f"{copy_bytes >> 20} MiB",
        "copy_gigabytes": 2.0 * copy_bytes / spent[1] / 1e6,
    }


def able(problem: Problem) -> tuple[list[Backend], dict[str, str]]:
    """The backends that can compute such calls here, without the last resort, and reasons against the others."""
    reasons = {backend.name: DISPATCHER.unsupported_reason(backend, problem) for backend in DISPATCHER.backends}
    reasons |= {b.name: reasons[b.name] or "the last resort: not timed" for b in DISPATCHER.backends if b.last_resort}
    return [b for b in DISPATCHER.backends if not reasons[b.name]], {n: why for n, why in reasons.items() if why}


def backend_works(backends: Mapping[bool, Sequence[Backend]], inputs: Sequence[tuple[Tensor, ...]]) -> dict[Case, Work]:
    """Calls by case; inputs alternate from round to round. backends: by need_lse."""
    tokens, scale = inputs[0][0].shape[1], inputs[0][0].shape[-1] ** -0.5

    def call(backend: Backend, need_lse: bool, queries: int, turn: int) -> object:
        q, k, v = inputs[turn % len(inputs)]
        return backend(q[:, :queries], k, v, scale=scale, need_lse=need_lse)

    works: dict[Case, Work] = {}
    for need_lse, entrants in backends.items():
        for share in SHARES_WITH_LSE if need_lse else GPU_SHARES:
            queries = queries_of(share, tokens)
            for backend in entrants:
                works[Case(backend.name, need_lse, share, queries)] = partial(call, backend, need_lse, queries)
    return works


def several_inputs(shape: Shape, device: torch.device, seed: int) -> list[tuple[Tensor, ...]]:
    """Two to four sets of q, k, v, so that no call finds its inputs in the L2 cache."""
    bytes_ = 3 * shape.tokens * shape.heads * shape.head_dim * shape.dtype.itemsize
    sets = max(2, min(4, INPUT_BYTES // bytes_))
    sizes = (shape.tokens, shape.heads, shape.head_dim)
    return [random_qkv(sizes, shape.dtype, device, seed + number) for number in range(sets)]


def chosen(shape: Shape, tensors: tuple[Tensor, ...], need_lse: bool) -> Choice:
    q, k, v = tensors
    return DISPATCHER.choose(q, k, v, shape.problem(q.device, need_lse))


def cpu_works(shape: Shape, inputs: Sequence[tuple[Tensor, ...]]) -> dict[Case, Work]:
    """The dispatcher's choice with and without log-sum-exp, and torch's own attention, on the same rows."""
    names = {need_lse: f"`{chosen(shape, inputs[0], need_lse).backend.name}`" for need_lse in (False, True)}

    def own(need_lse: bool, queries: int, turn: int) -> object:
        q, k, v = inputs[turn % len(inputs)]
        return attend(q[:, :queries], k, v, need_lse=need_lse)

    def torch_own(queries: int, turn: int) -> object:
        q, k, v = inputs[turn % len(inputs)]
        return scaled_dot_product_attention(q[:, :queries].transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))

    works: dict[Case, Work] = {}
    for share in CPU_SHARES:
        queries = queries_of(share, shape.tokens)
        works[Case(SDPA, False, share, queries)] = partial(torch_own, queries)
        for need_lse, name in names.items():
            works[Case(f"attend: {name}", need_lse, share, queries)] = partial(own, need_lse, queries)
    return works


def accuracy(dtype: torch.dtype, head_dim: int, device: torch.device) -> list[dict[str, Any]]:
    """Rows of the kernels' self-test, for every backend that supports the type and head size; nothing is asserted."""
    problem = Problem(device, dtype, selftest.BATCH, selftest.QUERIES, selftest.KEYS, selftest.HEADS, head_dim)
    rows = []
    for backend in (backend for backend in DISPATCHER.backends if not backend.unsupported_reason(problem)):
        found = DISPATCHER.verdict(backend, problem)
        tolerance = selftest.OUTPUT_TOLERANCE[dtype] if backend.exact else selftest.FAST_OUTPUT_TOLERANCE
        rows.append(
            {
                "backend": backend.name,
                "dtype": dtype_name(dtype),
                "head_dim": head_dim,
                "errors": {} if found.output_error is None else {"self-test": found.output_error},
                "owed": tolerance,
                "lse_error": found.lse_error,
                "reasons": [found.reason] if found.reason else [],
            }
        )
    return rows
