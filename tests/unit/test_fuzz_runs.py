"""Whole runs of the engine, drawn at random: samplers, noise levels, conditionings, budgets, modes, faults, threads.

Whatever is drawn, a run raises nothing of its own, returns finite latents, keeps nothing, reports what ran, and is the
plain run to the bit at budget 1. See `fuzzing` for long runs and for running one case again.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from fuzzed_cases import Case, Fault, Interrupted, some_case
from fuzzed_host import Host, NoRoom
from fuzzing import Generator, run_cases
from torch import Tensor
from toy_transformer import DIM

from astraea.engine.planning.plan import Plan
from astraea.engine.report import KINDS, Report
from astraea.engine.run import Run
from astraea.engine.state import residual_store as stores

SLOWEST = 5.0  # seconds of one case, which is several runs


@dataclass
class Ended:
    """What a run came to; latents are None where it was stopped."""

    latents: Tensor | None
    report: Report | None = None
    error: str = ""
    calls: int = 0


def ended(case: Case, *, plan: Plan | None, threads: bool = False) -> Ended:
    """Makes one run, and checks what has to hold of every run; plan None: without the engine."""
    run = None
    if plan is not None:
        run = Run.of(
            plan, case.sigmas, profile=case.profile, cost=case.cost, family="toy", seed=case.seed, guidance=3.0
        )
        check_planned(case, run)
    host = Host(case, run, threads=threads)
    NoRoom.host = host
    before = [dict(vars(block)) for block in case.model.blocks]
    found = Ended(None)
    try:
        found.latents = host.sample()
    except (Interrupted, RuntimeError, MemoryError) as error:
        if host.fault is not None or case.fault is None or str(error) != "drawn":
            raise
        found.error = type(error).__name__
    finally:
        NoRoom.host = None
        if run is not None:
            found.report = run.finish()
    found.calls = host.calls
    if run is not None and case.is_late:
        host.fault = None
        host.call_model(random.Random(0), 0, list(case.conditionings[:1]), 0, case.sigmas[-2], torch.zeros(case.shape))
    for block, attributes in zip(case.model.blocks, before, strict=True):
        assert vars(block).keys() == attributes.keys(), "a block is not as it was"
        assert vars(block).get("forward") is attributes.get("forward")
    if run is not None:
        assert found.report is not None
        assert not len(run.states)
        assert not list(tensors_in(run)), "the run holds tensors"
        check_report(case, plan, found)
    given, run = host.given, None
    del host
    if found.latents is not None:
        assert found.latents.shape == case.shape
        assert found.latents.dtype == case.dtype
        assert found.latents.isfinite().all()
        found.latents = found.latents.clone()
    gc.collect()
    assert not any(each() is not None for each in given), "something holds what the model was given, or gave"
    return found


def check_planned(case: Case, run: Run) -> None:
    assert len(run.budgets) == run.profile.steps == len(run.profile.calls_per_step)
    assert all(0.0 <= budget <= 1.0 for budget in run.budgets)
    size = run.store_bytes(2, 64, DIM, 3, case.dtype, 1000)
    assert isinstance(size, int)
    assert size >= 0


def check_report(case: Case, plan: Plan | None, found: Ended) -> None:
    report = found.report
    assert report is not None
    assert report.summary().count("\n") == 0
    json.dumps(report.as_dict())
    for call in report.calls:
        assert call.kind in KINDS
        assert 0 <= call.computed <= call.tokens
        assert 0 <= call.step < report.steps
        assert call.kind != "full" or call.computed == call.tokens
        assert call.kind not in ("reuse", "answered") or call.computed == 0
    if found.error or case.fault is not None or not report.calls:
        return
    assert len(report.calls) >= found.calls, "a call is not in the report"
    check_spent(case, report)


def check_spent(case: Case, report: Report) -> None:
    """No more than was asked for and a step, or why."""
    excuses = (" calls ran ", " noise levels ", "everything is computed", "would give another clip")
    if not case.is_usual or any(excuse in note for note in report.notes for excuse in excuses):
        return
    steps = [sum(call.tokens for call in report.calls if call.step == step) for step in range(report.steps)]
    spent, total = sum(call.computed for call in report.calls), sum(steps)
    # Of tokens whole units are computed, and at least one.
    unit = 16 * case.shape[0] * len(case.conditionings)
    least = sum(max(0.0, unit - call.budget * call.tokens) for call in report.calls if 0.0 < call.budget < 1.0)
    allowed = max(report.asked_budget * total, steps[0] + steps[-1]) + max(steps) + least
    assert spent <= allowed, f"{spent} of {total} tokens for {report.asked_budget:.3f}: {report.notes}"


ATOMS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, str, int, float, torch.dtype)


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """Every tensor that can be reached from an object."""
    seen, left = {id(thing)}, [thing]
    while left:
        for each in gc.get_referents(left.pop()):
            if isinstance(each, Tensor):
                yield each
            elif id(each) not in seen and not isinstance(each, ATOMS):
                seen.add(id(each))
                left.append(each)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stores as the host allows; garbage is looked for among what a case made; threads change places often."""
    monkeypatch.setattr(stores, "ResidualStore", NoRoom)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    sys.setswitchinterval(interval)


def same(one: Ended, other: Ended) -> bool:
    if one.latents is None or other.latents is None:
        return one.error == other.error and one.latents is other.latents
    return torch.equal(one.latents, other.latents)


def words(case: Case) -> str:
    """What was drawn, for a case that fails."""
    return repr(replace(case, model=None, profile=None))  # type: ignore[arg-type]


@torch.inference_mode()
def check_alone(rng: Generator) -> None:
    case = some_case(rng)
    first = ended(case, plan=case.plan)
    if rng.random() < 0.5:
        assert same(first, ended(case, plan=case.plan)), f"not the same twice: {words(case)}"
        return
    full = ended(case, plan=replace(case.plan, budget=1.0, target_speedup=None))
    assert same(full, ended(case, plan=None)), f"not the plain run at budget 1: {words(case)}"


def test_runs() -> None:
    run_cases("runs", 60, check_alone, slowest=SLOWEST)


@torch.inference_mode()
def check_threads(rng: Generator) -> None:
    case = some_case(rng)
    # Of levels that the sampler never asks for, the first one told decides: all are told the same.
    told = case.conditionings[0].told
    apart = tuple(replace(each, device=n % 2, told=told) for n, each in enumerate(case.conditionings))
    case = replace(case, conditionings=apart)
    one, two = ended(case, plan=case.plan), ended(case, plan=case.plan, threads=True)
    assert same(one, two), f"two threads lead elsewhere: {words(case)}"
    assert one.report is not None
    assert two.report is not None
    assert one.report.computed_share == two.report.computed_share


def test_two_threads_give_the_bits_of_one() -> None:
    run_cases("threads", 30, check_threads, slowest=SLOWEST)


@torch.inference_mode()
def check_stopped(rng: Generator) -> None:
    case = some_case(rng)
    place = rng.choice(["model", "block", "end", "allocation", "allocation", "callback"])
    error = rng.choice([Interrupted, RuntimeError, MemoryError, torch.OutOfMemoryError])
    fault = Fault(rng.randrange(1, 3 * len(case.sigmas)), place, error, is_caught=rng.random() < 0.5)
    case = replace(case, fault=fault, is_late=rng.random() < 0.3)
    threads = rng.random() < 0.3
    first = ended(case, plan=case.plan, threads=threads)
    assert threads or same(first, ended(case, plan=case.plan))


def test_runs_that_are_stopped_or_go_wrong() -> None:
    run_cases("stopped", 60, check_stopped, slowest=SLOWEST)
