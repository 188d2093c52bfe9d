"""Recall and output error of every candidate and control, in heads of a dense run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import astraea.host.sampling.sparse as host_sparse
from astraea.engine.sparse.candidates import CANDIDATES, HeadChoice, TileProblem

from .controls import MASKS, MaskedRun, scores_of


def watching(found: list[dict[str, Any]], densities: Sequence[float]) -> type[MaskedRun]:
    """A run that measures its sparse calls and computes all of them densely."""

    class Watching(MaskedRun):
        def _attend(self, call: Any, rows: Any, layer: int, model_call: Any) -> None:  # type: ignore[override]
            problem = self._problem(call, rows, model_call)
            weights, values = scores_of(problem).softmax(-1), problem.v.transpose(1, 2).float()
            exact = weights @ values
            generator = torch.Generator().manual_seed(self.seed * 1000 + model_call.step * 50 + layer)
            for density in densities:
                masks = {each.name: _mask_of(problem, each, density) for each in CANDIDATES}
                masks |= {name: make(problem, density, generator) for name, make in MASKS.items()}
                for name, mask in masks.items():
                    kept = weights * mask
                    total = kept.sum(-1, keepdim=True)
                    out = (kept @ values) / total.clamp_min(1e-30)
                    found.append(
                        {
                            "step": model_call.step,
                            "layer": layer,
                            "density": density,
                            "method": name,
                            "recall": round(float(total.mean()), 4),
                            "error": round(float((out - exact).norm() / exact.norm()), 4),
                        }
                    )

    return Watching


def _mask_of(problem: TileProblem, candidate: Any, density: float) -> Tensor:
    choice = HeadChoice.same(candidate, density, problem.heads)
    lists = problem.key_tiles(choice, with_rest=False)
    return replace(lists, rest=None).token_mask(problem.call.query_count, problem.call.layout.rows)


@contextmanager
def watched(found: list[dict[str, Any]], densities: Sequence[float]) -> Iterator[None]:
    """Within the context, runs are dense and their calls measured into `found`."""
    original = host_sparse.SparseRun
    host_sparse.SparseRun = watching(found, densities)  # type: ignore[misc]
    try:
        yield
    finally:
        host_sparse.SparseRun = original  # type: ignore[misc]
