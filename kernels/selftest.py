"""Self-test of a backend on a device: output and log-sum-exp against double precision.

Private operators and packages change between versions, and kernels may not compile or need a newer driver: a backend
that fails here is not used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .backend import Backend
from .key_tiles import KEY_TILE, QUERY_TILE, KeyTiles, Orders, Rest
from .problem import Problem

BATCH, QUERIES, KEYS, HEADS = 2, 161, 331, 3  # ragged on purpose
OUTPUT_TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5, torch.float64: 1e-5}
LSE_TOLERANCE = 2e-3
# For backends that are not exact: 8-bit scores err by 1 % of the largest, which shows in peaked rows.
FAST_OUTPUT_TOLERANCE, FAST_LSE_TOLERANCE = 5e-2, 0.25


@dataclass(frozen=True)
class SelfTestResult:
    """Errors of a backend. output_error: relative, in the Euclidean norm; lse_error: greatest absolute error.

    reason: why the backend must not be used, "" if it passed.
    """

    output_error: float | None = None
    lse_error: float | None = None
    reason: str = ""


def make_inputs(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Make small random q, k, v of a problem's device, dtype and head size, with a constant added to the keys.

    The constant shifts all scores: the log-sum-exp of a backend that subtracts the keys' mean and does not make up for
    it comes out wrong.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = (QUERIES, KEYS, KEYS)
    q, k, v = (torch.randn(BATCH, rows, HEADS, problem.head_dim, generator=generator) for rows in lengths)
    q[:, ::7] *= 4.0  # some peaked rows
    return tuple(t.to(problem.dtype).to(problem.device) for t in (q, k + 1.0, v))  # type: ignore[return-value]


def make_lists(problem: Problem) -> KeyTiles | None:
    """Make lists of key tiles for these inputs, in two orders of tokens; None for a problem without lists."""
    if not problem.key_tiles:
        return None
    generator = torch.Generator().manual_seed(1)
    wanted = torch.rand(BATCH, HEADS, -(-QUERIES // QUERY_TILE), -(-KEYS // KEY_TILE), generator=generator) < 0.5
    wanted[..., 0] = True  # no empty list: its rows are zeros
    orders = (torch.stack([torch.arange(n), torch.randperm(n, generator=generator)]) for n in (KEYS, QUERIES))
    keys, queries = (order.to(torch.int32).to(problem.device) for order in orders)
    of_head = torch.tensor([0, 1, 0], dtype=torch.int32, device=problem.device)
    lists = replace(KeyTiles.from_mask(wanted.to(problem.device)), orders=Orders(keys, queries[None], of_head))
    if problem.rest:
        top = torch.randn(wanted.shape[:-1], generator=generator) + 4.0  # as much as some tens of keys
        value = torch.randn(*wanted.shape[:-1], problem.head_dim, generator=generator)
        lists = replace(lists, rest=Rest(top.to(problem.device), value.to(problem.device)))
    return lists


def attend_in_float64(
    q: Tensor, k: Tensor, v: Tensor, scale: float, key_tiles: KeyTiles | None = None
) -> tuple[Tensor, Tensor]:
    """Compute output `[B, M, H, D]` and log-sum-exp `[B, H, M]` in double precision, on the CPU."""
    queries, keys, values = (t.cpu().double().transpose(1, 2) for t in (q, k, v))
    scores = (queries * scale) @ keys.transpose(-1, -2)
    if key_tiles is not None:
        scores.masked_fill_(~key_tiles.token_mask(q.shape[1], k.shape[1]).cpu(), -torch.inf)
    out, lse = scores.softmax(-1) @ values, scores.logsumexp(-1)
    if key_tiles is not None and key_tiles.rest is not None:
        top, value = (each.cpu().double() for each in key_tiles.rest_of_queries(q.shape[1]))
        whole = torch.logaddexp(lse, top)
        out = (lse - whole).exp().unsqueeze(-1) * out + (top - whole).exp().unsqueeze(-1) * value
        lse = whole
    return out.transpose(1, 2), lse


def measure_errors(found: tuple[Tensor, Tensor | None], expected: tuple[Tensor, Tensor]) -> tuple[float, float | None]:
    """Return the relative error of the output and the greatest error of the log-sum-exp. NaN counts as infinite."""
    out, lse = found
    output = ((out.cpu().double() - expected[0]).norm() / expected[0].norm()).nan_to_num(torch.inf).item()
    if lse is None:
        return output, None
    return output, (lse.cpu().double() - expected[1]).abs().max().nan_to_num(torch.inf).item()


@torch.inference_mode()
def check(backend: Backend, problem: Problem) -> SelfTestResult:
    """Run a backend on a small problem of the same kind. Never raises."""
    needs_lse = backend.constraints.lse
    scale = problem.head_dim**-0.5
    try:
        q, k, v = make_inputs(problem)
        lists = make_lists(problem)
        found = backend(q, k, v, scale=scale, need_lse=needs_lse, key_tiles=lists)
        again = backend(q, k, v, scale=scale, need_lse=needs_lse, key_tiles=lists)
        repeatable = torch.equal(found[0], again[0])
        output, lse = measure_errors(found, attend_in_float64(q, k, v, scale, lists))
    except Exception as error:  # anything that a kernel or its compiler raises is a reason not to use it
        return SelfTestResult(reason=f"failed: {type(error).__name__}: {first_line(error)}")
    if needs_lse and lse is None:
        return SelfTestResult(output, reason="returned no log-sum-exp")
    max_output = OUTPUT_TOLERANCE[problem.dtype] if backend.exact else FAST_OUTPUT_TOLERANCE
    max_lse = LSE_TOLERANCE if backend.exact else FAST_LSE_TOLERANCE
    if output > max_output:
        return SelfTestResult(output, lse, f"its output is off by {output:.1e}, more than {max_output:.0e}")
    if lse is not None and lse > max_lse:
        return SelfTestResult(output, lse, f"its log-sum-exp is off by {lse:.1e}, more than {max_lse:.0e}")
    if not repeatable:
        return SelfTestResult(output, lse, "it gives different bits for the same input")
    return SelfTestResult(output, lse)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters."""
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
