"""The error of a head's output under lists of key tiles, measured on sampled rows.

Output decides, not recall: where values vary little, a head may leave out most of its attention and lose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .candidates import Candidate, TileProblem
from .orders import inverse

ROWS = 64
MAX_SCORES = 1 << 25  # fp32 scores held at once: 128 MiB


def sampled_rows(count: int, seed: int, device: torch.device, rows: int = ROWS) -> Tensor:
    """Return numbers of rows, spread over all `count`, one drawn at random from each equal part: int64, ascending."""
    rows = min(rows, count)
    draw = torch.rand(rows, generator=torch.Generator().manual_seed(seed))
    return ((torch.arange(rows) + draw) * count / rows).long().clamp(max=count - 1).to(device)


def output_errors(problem: TileProblem, rows: Tensor, ways: Sequence[tuple[Candidate, float]]) -> Tensor:
    """Return the relative error of the output of sampled rows, fp32 `[len(ways), H]`, in the Euclidean norm.

    ways: candidates with their densities; rows: numbers of the problem's queries, int64 `[r]`.
    """
    return Probe(problem, rows).errors([(*way, None) for way in ways])


class Probe:
    """Sampled rows of a call: their exact output, and its error under lists of tiles.

    rows: numbers of the problem's queries, int64 `[r]`; with_rest: lists come with the term for the tiles that they
    leave out. parts: each head's part in the squared norm of the output, fp32 `[H]`, known after the first errors.
    """

    def __init__(self, problem: TileProblem, rows: Tensor, with_rest: bool = False):
        self._problem, self._rows, self._with_rest = problem, rows, with_rest
        self._tile_of_key = problem.call.orders.places // problem.call.key_tile
        heads = problem.heads
        group = max(1, MAX_SCORES // (problem.q.shape[0] * len(rows) * problem.call.layout.rows))
        self._groups = [range(first, min(first + group, heads)) for first in range(0, heads, group)]
        self._kept: _Exact | None = None
        self.parts = torch.empty(0)

    def errors(self, ways: Sequence[tuple[Candidate, float, Sequence[int] | None]]) -> Tensor:
        """Return the relative error of each head's output by each way, fp32 `[len(ways), H]`.

        ways: candidate, density and the heads that it is asked for; None: all. The others' errors are infinite.
        """
        lists = [self._lists(candidate, density) for candidate, density, _ in ways]
        found = torch.full((len(ways), self._problem.heads), torch.inf, device=self._rows.device)
        sizes = []
        for group in self._groups:
            exact = self._exact(group)
            sizes.append(exact.size)
            for number, (candidate, _, heads) in enumerate(ways):
                wanted = list(group) if heads is None else [head for head in heads if head in group]
                if wanted:
                    found[number, wanted] = self._errors_in(exact, wanted, candidate, lists[number])
        size = torch.cat(sizes)
        self.parts = size / size.sum()
        return found

    def _exact(self, heads: range) -> _Exact:
        """Return the exact output in some heads; one group at a time fits into the memory that is taken for it."""
        if self._kept is None or self._kept.heads != heads:
            self._kept = None
            self._kept = _Exact(self._problem, self._rows, heads)
        return self._kept

    def _errors_in(self, exact: _Exact, heads: list[int], candidate: Candidate, listed: _RowLists) -> Tensor:
        own = slice(None) if len(heads) == len(exact.heads) else [head - exact.heads.start for head in heads]
        order = self._problem.call.orders.names.index(candidate.order)
        mask = listed.mask[:, heads].to(exact.weights.dtype)
        kept = exact.weights[:, own] * mask.index_select(-1, self._tile_of_key[order])
        out, total = (kept @ exact.v[:, own]).float(), kept.sum(-1, keepdim=True, dtype=torch.float32)
        if listed.rest is not None:
            top, value = listed.rest
            share = (top[:, heads].unsqueeze(-1) - exact.largest[:, own]).exp()
            out, total = out + share * value[:, heads], total + share
        difference = out / total.clamp_min(1e-30) - exact.out[:, own]
        return (difference.square().sum((0, 2, 3)) / exact.size[own]).sqrt()

    def _lists(self, candidate: Candidate, density: float) -> _RowLists:
        """Return what the sampled rows attend to by a candidate."""
        problem, call = self._problem, self._problem.call
        places = inverse(call.queries[:, call.orders.names.index(candidate.order)])[:, self._rows]
        tiles = places // call.query_tile
        lists = problem.lists(candidate, density, tiles)
        mask = torch.zeros(*lists.shape[:3], call.key_tiles + 1, device=lists.device)
        mask.scatter_(-1, lists.long().clamp(max=call.key_tiles), 1.0)
        rest = problem.rest(candidate.order, lists, tiles) if self._with_rest else None
        return _RowLists(mask[..., :-1], None if rest is None else (rest.top, rest.value))


class _Exact:
    """Weights `[B, h, r, N]`, relative to the largest, and output `[B, h, r, D]` of sampled rows in some heads.

    On a GPU weights are kept in the call's half precision: the errors that are compared are far above its rounding.
    """

    def __init__(self, problem: TileProblem, rows: Tensor, heads: range):
        self.heads, part = heads, slice(heads.start, heads.stop)
        q, k, v = (each[:, :, part].transpose(1, 2) for each in (problem.q[:, rows], problem.k, problem.v))
        if q.device.type == "cpu":
            q, k, v = q.float(), k.float(), v.float()
        scores = ((q * problem.scale) @ k.transpose(-1, -2)).float()
        self.largest = scores.amax(-1, keepdim=True)
        self.weights, self.v = (scores - self.largest).exp_().to(v.dtype), v
        total = self.weights.sum(-1, keepdim=True, dtype=torch.float32)
        self.out = (self.weights @ v).float() / total
        self.size = self.out.square().sum((0, 2, 3)).clamp_min(1e-30)


@dataclass(frozen=True)
class _RowLists:
    """Lists of sampled rows.

    mask: fp32 `[B, H, r, n_k]`, 1 for listed tiles, else 0; rest: score `[B, H, r]` and value `[B, H, r, D]`, or None.
    """

    mask: Tensor
    rest: tuple[Tensor, Tensor] | None
