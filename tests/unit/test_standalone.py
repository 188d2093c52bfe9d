"""The demonstration's way without ComfyUI: the tiny model through the same engine, with torch alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from astraea.engine.calls import TokenCall
from astraea.engine.metrics import psnr, value_range
from astraea.engine.planning.plan import make_plan
from astraea.schedules import flow_sigmas, periodic
from astraea.tiny.standalone import load_tiny, sample
from astraea.tiny.words import context_for

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12
SIGMAS = [*flow_sigmas(STEPS), 0.0]


@pytest.fixture(scope="module")
def model():
    return load_tiny(ROOT / "tiny" / "astraea_tiny_wan_fp16.safetensors")


def clip(model, plan=None):
    noise = torch.randn((1, 16, 3, 16, 16), generator=torch.Generator().manual_seed(3))
    positive, negative = context_for("a big red circle moving right over a blue ground"), context_for("")
    return sample(model, noise, positive, negative, SIGMAS, cfg=3.0, plan=plan)


def test_a_full_budget_changes_nothing(model) -> None:
    dense, _, _ = clip(model)
    full, report, _ = clip(model, make_plan(periodic("any", [0.3], SIGMAS[:-1]), budget=1.0))
    assert torch.equal(dense, full)
    assert report.computed_share == 1.0


@pytest.mark.parametrize("pattern", [[0.0, 1.0], [0.5], [0.0, 0.0, 0.7]], ids=["whole steps", "tokens", "both"])
def test_an_accelerated_clip_stays_close_and_is_reported(model, pattern: list[float]) -> None:
    dense, _, _ = clip(model)
    schedule = periodic("any", pattern, SIGMAS[:-1])
    fast, report, seconds = clip(model, make_plan(schedule))
    assert psnr(fast, dense, value_range(dense)) > 25
    assert report.finished
    assert report.steps == STEPS
    assert report.computed_share == pytest.approx(schedule.mean_budget, abs=0.03)
    assert 0 < report.model_seconds <= seconds


def test_the_model_is_left_as_it_was(model) -> None:
    clip(model, make_plan(periodic("any", [0.5], SIGMAS[:-1])))
    assert not any("forward" in vars(block) for block in model.blocks)


@pytest.mark.parametrize(("pattern", "swapped"), [([0.0, 1.0], 0), ([0.5], STEPS - 3)], ids=["whole steps", "tokens"])
def test_blocks_are_touched_only_where_tokens_are_kept_or_chosen(model, pattern: list[float], swapped: int) -> None:
    """With whole steps alone nowhere; else at the token steps and the full one before them, of three."""
    seen = []
    hook = model.blocks[0].norm1.register_forward_pre_hook(lambda *_: seen.append("forward" in vars(model.blocks[0])))
    try:
        clip(model, make_plan(periodic("any", pattern, SIGMAS[:-1])))
    finally:
        hook.remove()
    assert seen
    assert sum(seen) == swapped


@pytest.mark.parametrize("mode", ["default", "refit", "hold"])
@pytest.mark.parametrize("cache", ["full", "fp8"])
def test_what_stays_kept_are_computed_values(model, monkeypatch: pytest.MonkeyPatch, mode: str, cache: str) -> None:
    shipped, seen = TokenCall._residuals, []

    def update(call, part, index, fresh):
        before = part.state.store.read(index).clone()
        residual = shipped(call, part, index, fresh)
        after, chosen = part.state.store.read(index), part.selection
        tolerance = (
            {"rtol": 0.07, "atol": 0.02 * float(fresh.abs().max())} if cache == "fp8" else {"rtol": 0, "atol": 0}
        )
        torch.testing.assert_close(after, chosen.put(before.clone(), fresh), **tolerance)
        assert torch.equal(chosen.gather(residual), fresh)
        seen.append(bool((residual != after).any()))
        return residual

    monkeypatch.setattr(TokenCall, "_residuals", update)
    clip(model, make_plan(periodic("any", [0.5], SIGMAS[:-1]), mode=mode, cache=cache))
    assert seen
    assert mode == "hold" or any(seen)


@pytest.mark.slow
def test_the_demo_runs_by_path_and_shows_what_it_gained(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tiny" / "demo.py"), "--steps", "10", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "with torch alone" in done.stdout
    assert "x faster" in done.stdout or "PSNR" in done.stdout
    assert (tmp_path / "astraea_demo.webp").stat().st_size > 1000


def test_the_demo_refuses_a_budget_it_cannot_keep() -> None:
    command = [sys.executable, str(ROOT / "tiny" / "demo.py"), "--budget", "7"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--budget goes from 0.2 to 1" in done.stderr
