"""Sparse attention on random calls: finite outputs of the shape of dense ones, whatever the layout and the plan."""

from __future__ import annotations

import math
import random

import torch
from test_sparse_run import call_of, dense, make_run, model_call, tensors

from astraea.engine.blocks.interface import TokenLayout
from astraea.engine.sparse.plan import CHOICES, RESTS


def some_case(seed):
    """A layout, a plan and a call, all at random."""
    rng = random.Random(seed)
    grid = (rng.randint(1, 5), rng.randint(1, 9), rng.randint(1, 9))
    video, prefix, suffix = math.prod(grid), rng.choice([0, 0, 3, 20]), rng.choice([0, 0, 1, 17])
    more = rng.choice([0, 0, 0, 5])
    known = rng.random() < 0.8
    layout = TokenLayout(video, prefix, suffix, grid if known else None, rng.random() < 0.5)
    plan = {
        "density": rng.choice([0.05, 0.1, 0.3, 0.5, 0.9]),
        "choice": rng.choice(CHOICES),
        "rest": rng.choice(RESTS),
        "limit": rng.choice([0.0, 0.01, 0.35]),
        "query_tile": rng.choice([16, 32, 128]),
        "key_tile": rng.choice([8, 16, 64]),
    }
    keys, batch = layout.total + more, rng.choice([1, 1, 2, 3])
    queries, selected = keys, None
    if rng.random() < 0.4 and not more and video > 1:
        count = rng.randint(1, video - 1)
        selected = torch.stack([torch.tensor(sorted(rng.sample(range(video), count))) for _ in range(batch)]) + prefix
        queries = prefix + count + suffix
    q, k, v = tensors(queries, keys, batch, rng.choice([1, 2, 3]), rng.choice([8, 64]), seed)
    dtype = rng.choice([torch.float32, torch.float32, torch.float16, torch.bfloat16])
    return layout, plan, call_of(*(each.to(dtype) for each in (q, k, v)), selected=selected), rng.random() < 0.3


def test_random_calls_give_finite_outputs_of_the_shape_of_dense_ones():
    sparse = 0
    for seed in range(300):
        layout, fields, call, conditioned = some_case(seed)
        run = make_run(**fields)
        for out in model_call(run, 2, [call] * 2, layout, conditioned):
            if out is not None:
                sparse += 1
                expected = dense(call.q, call.k, call.v)
                assert (out.shape, out.dtype) == (expected.shape, expected.dtype), seed
                assert out.isfinite().all(), seed
                assert out.norm() < 9.0 * expected.norm() + 1.0, seed
        run.finish()
    assert sparse > 200
