"""What benchmarks do to make many runs in less time comes to what single runs come to."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import comfy.ldm.wan.model
import comfy.model_management
import comfy.samplers
import pytest
import torch
from sampling import PROMPT, conditioning

from astraea.host.search.runner import ComfyRunner
from astraea.host.search.setting import Case
from astraea.schedules import Schedule
from astraea.search.problem import Job

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PROMPTS = (PROMPT, "a small green square moving up", "a big white ring spinning", "a blue triangle standing")
SHAPE = (1, 16, 4, 8, 8)
MIXED = [1.0, 1.0, 0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.6, 1.0]


@pytest.fixture
def batched(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("batched_bench")
    for name in ("batched_bench", "faster_cpu", "kept_bench"):
        sys.modules.pop(name, None)


def bench_of(kind, model):
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", len(MIXED))
    cases = [
        Case(conditioning(prompt), conditioning(""), {"samples": torch.zeros(SHAPE)}, 10 + number)
        for number, prompt in enumerate(PROMPTS)
    ]
    return kind(model, cases, sampler=comfy.samplers.sampler_object("euler"), sigmas=sigmas, cfg=3.0)


def test_every_case_comes_to_what_it_comes_to_alone(batched, load_tiny):
    alone, together = bench_of(ComfyRunner, load_tiny()), bench_of(batched.BatchedBench, load_tiny())
    schedule = Schedule("mixed", tuple(zip(alone.setting.sigmas, MIXED, strict=False)))
    jobs = [Job(case, schedule) for case in range(len(PROMPTS))]
    assert alone.setting == together.setting
    losses, close = set(), 1e-3 if comfy.model_management.get_torch_device().type == "cpu" else 0.02
    for one, other in zip(alone.measure(jobs), together.measure(jobs), strict=True):
        assert other.loss == pytest.approx(one.loss, rel=close)
        assert (other.kinds, other.computed, other.steps) == (one.kinds, pytest.approx(one.computed), one.steps)
        # By step over all latents; one by one over a sample of them, which this small clip exceeds.
        assert other.losses == pytest.approx(one.losses, rel=0.2)
        losses.add(round(other.loss, 12))
    assert len(losses) == len(PROMPTS)
    assert set(one.kinds) == {"full", "token", "reuse"}


def test_a_candidate_is_run_once_for_all_its_cases(batched, load_tiny, monkeypatch):
    bench, runs = bench_of(batched.BatchedBench, load_tiny()), []
    shipped = bench._run_together
    monkeypatch.setattr(bench, "_run_together", lambda schedule: runs.append(schedule.name) or shipped(schedule))
    for name in ("a", "b"):
        schedule = Schedule(name, tuple(zip(bench.setting.sigmas, MIXED, strict=False)))
        for case in (2, 0, 3):
            next(bench.measure([Job(case, schedule)]))
    assert runs == ["a", "everything", "b"] or runs == ["everything", "a", "b"]


def test_a_batch_is_not_given_up(batched, load_tiny):
    bench = bench_of(batched.BatchedBench, load_tiny())
    schedule = Schedule("mixed", tuple(zip(bench.setting.sigmas, MIXED, strict=False)))
    with pytest.raises(ValueError, match="run to its end"):
        next(bench.measure([Job(0, schedule, limits=(1.0,) * len(MIXED))]))


def test_first_steps_are_computed_once_for_each_input(batched, load_tiny, monkeypatch):
    block, calls = comfy.ldm.wan.model.WanAttentionBlock, []
    shipped = block.forward
    counted = lambda self, x, e, freqs, context, *args, **options: (  # noqa: E731 - a function of the block's signature
        calls.append(self) or shipped(self, x, e, freqs, context, *args, **options)
    )
    monkeypatch.setattr(block, "forward", counted)

    def losses() -> list[float]:
        bench = bench_of(ComfyRunner, load_tiny())
        bench.known(0), bench.known(1)
        calls.clear()
        found = []
        for name, budgets in (("a", MIXED), ("b", [1.0, *MIXED[:0:-1]])):
            schedule = Schedule(name, tuple(zip(bench.setting.sigmas, budgets, strict=False)))
            found += [outcome.loss for outcome in bench.measure([Job(0, schedule), Job(1, schedule)])]
        return found

    exact, all_calls = losses(), len(calls)
    blocks = len(set(map(id, calls)))
    with sys.modules["faster_cpu"].first_steps_remembered():
        assert losses() == exact
    assert len(calls) == all_calls - 4 * blocks, "two candidates on two cases"
    assert block.forward is counted


def test_dense_runs_are_kept_on_disk(batched, load_tiny, tmp_path, monkeypatch):
    kept = importlib.import_module("kept_bench").KeptBench
    first, second = (bench_of(kept, load_tiny()) for _ in range(2))
    first.folder = second.folder = tmp_path / "dense"
    made = first.dense(1)
    monkeypatch.setattr(second, "_run_dense", lambda case: pytest.fail("it was run again"))
    assert torch.equal(second.dense(1).final, made.final)
    assert len(list((tmp_path / "dense").iterdir())) == 1
