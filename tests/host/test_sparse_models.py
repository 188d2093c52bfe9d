"""Sparse attention on every model of the zoo: its steps, grids, rows of text, and report."""

from __future__ import annotations

import kit
import pytest
import torch
import zoo
from sampling import last, sample
from sparse_kit import sparsely

from astraea.engine.sparse import run as sparse_run
from astraea.engine.sparse import work as sparse_work
from astraea.engine.sparse.run import SparseRun
from astraea.host.sampling.sparse import SPARSE_KEY
from astraea.nodes.report_text import report_text


@pytest.mark.parametrize(("steps", "dense"), [(1, 1), (2, 1), (4, 1), (8, 1), (20, 2)])
def test_the_first_steps_are_dense(load_tiny, steps, dense):
    on, handle = sparsely(load_tiny())
    sample(on, steps=steps, cfg=1.0)
    figures = last(handle).sparse
    assert figures["steps"] == steps
    assert figures["sparse_steps"] == steps - dense
    assert figures["calls"] == 8 * (steps - dense)


# Images are the same everywhere: they run on the newest host.
MODELS = [
    pytest.param(name, marks=[pytest.mark.newest_host] if entry.kind == "image" else [])
    for name, entry in zoo.MODELS.items()
    if entry.kind in ("video", "image")
]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_runs_sparsely_or_says_why_not(name):
    sampled = kit.build(name)
    expected = kit.joined(zoo.sample(sampled, steps=3))
    on, handle = sparsely(sampled.model, query_tile=8, key_tile=4, density=0.5)
    result = kit.joined(zoo.sample(sampled, on, steps=3))
    assert result.isfinite().all()
    assert torch.equal(kit.joined(zoo.sample(sampled, steps=3)), expected)
    report = last(handle)
    if report.sparse is None or not report.sparse["calls"]:
        assert torch.equal(result, expected)
        assert report.notes or report.sparse is not None
    else:
        assert not torch.equal(result, expected)


SPARSE_MODELS = {
    "Wan 2.1 text to video", "Wan 2.1 image to video", "HunyuanVideo", "MiniMax-H3", "LTXV", "Mochi", "CogVideoX 2B",
    "Cosmos-Predict2", "Kandinsky 5", "LTX-2 audio+video", "LTX-2.3 audio+video", "Cosmos 1", "HunyuanVideo 1.5",
    "Wan 2.2 S2V", "Wan 2.1 SCAIL-2", "Wan 2.1 Phantom", "MiniMax-H3 image to video",
}  # fmt: skip


@pytest.mark.newest_host
@pytest.mark.parametrize("name", sorted(SPARSE_MODELS))
def test_the_tokens_of_known_models_lie_on_their_grid(name, monkeypatch):
    layouts = []
    original = sparse_run.row_layout

    def noted(rows, layout):
        found = original(rows, layout)
        if found is not None:
            layouts.append((found, layout))
        return found

    monkeypatch.setattr(sparse_run, "row_layout", noted)
    sampled = kit.build(name)
    on, handle = sparsely(sampled.model, query_tile=8, key_tile=4)
    zoo.sample(sampled, on, steps=3)
    assert last(handle).sparse["calls"] > 0
    assert all(found.grid is not None for found, _ in layouts)
    assert all(found.sparse == layout.video for found, layout in layouts)


@pytest.mark.newest_host
@pytest.mark.parametrize("name", ["MiniMax-H3", "HunyuanVideo", "Mochi", "CogVideoX 2B"])
def test_rows_of_text_are_dense_and_their_keys_are_kept(name, monkeypatch):
    """Of the last sparse call: text rows have dense attention's output, and every list holds the tiles of the text."""
    kept = {}
    original = SparseRun.attend

    def attend(self, call):
        out = original(self, call)
        if out is not None:
            kept.update(call=call, out=out, run=self)
        return out

    lists = []
    compute = sparse_work.attend
    monkeypatch.setattr(SparseRun, "attend", attend)
    monkeypatch.setattr(sparse_work, "attend", lambda *a, **k: lists.append(k["key_tiles"]) or compute(*a, **k))
    sampled = kit.build(name)
    on, _ = sparsely(sampled.model, query_tile=8, key_tile=4)
    zoo.sample(sampled, on, steps=3)
    call, out = kept["call"], kept["out"]
    exact = call.dense(call.q, call.k, call.v)
    same = (out - exact).square().sum((0, 2, 3)) <= 1e-8 * exact.square().sum((0, 2, 3))
    text = same.sum().item()
    assert 0 < text < same.numel()
    mask = lists[-1].token_mask(out.shape[1] - text, call.k.shape[1])
    assert mask[..., same].all()
    assert not mask.all()


def test_sparse_attention_reports_what_it_did(load_tiny):
    on, handle = sparsely(load_tiny(), density=0.3)
    sample(on, steps=10)
    text = report_text(last(handle))
    assert text.startswith("Astraea Sparse Attention")
    assert "8 of 8 layers, 9 of 10 steps" in text
    assert "off by" in text
    assert "Heads took" in text


def test_the_plan_is_on_the_clone_alone(load_tiny):
    model = load_tiny()
    on, _ = sparsely(model)
    assert SPARSE_KEY in on.model_options["transformer_options"]
    assert SPARSE_KEY not in model.model_options.get("transformer_options", {})
