"""Backends that tests can distinguish. Choices are saved in a folder of the test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from astraea.kernels import Problem, attend_reference, autotune, autotune_cache
from astraea.kernels.backends.reference import BACKEND as REFERENCE
from astraea.kernels.dispatch import ATTENTION_ENV

GENERATOR = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(1, rows, 2, 64, generator=GENERATOR) for rows in (40, 96, 96))
PROBLEM = Problem.of(Q, K, V, need_lse=True)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(autotune_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(ATTENTION_ENV, raising=False)


def backend(name, run=attend_reference, **fields):
    return replace(REFERENCE, name=name, run=run, last_resort=False, **fields)


def timed(monkeypatch, times, calls=None):
    """Replace measured times by given times."""

    def time_backends(backends, *tensors, **options):
        if calls is not None:
            calls.append([b.name for b in backends])
        return {b.name: times[b.name] for b in backends}

    monkeypatch.setattr(autotune, "time_backends", time_backends)


def off_by_a_little(q, k, v, *, scale, need_lse):
    out, lse = attend_reference(q, k, v, scale=scale, need_lse=need_lse)
    return out * 1.01, lse


def base_two(q, k, v, *, scale, need_lse):
    """Return the log-sum-exp in the wrong base, as one library did."""
    out, lse = attend_reference(q, k, v, scale=scale)
    return out, lse / torch.tensor(2.0).log()
