"""Whole runs of the engine, drawn at random: samplers, noise levels, conditionings, budgets, modes, faults, threads.

Whatever is drawn, a run raises nothing of its own, returns finite latents, keeps nothing, reports what ran, and is the
plain run to the bit at budget 1. See `fuzzing` for long runs and for running one case again.
"""

from __future__ import annotations

import copy
import gc
import json
import math
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from fuzzing import Generator, run_cases, some_schedule
from torch import Tensor
from toy_transformer import CHANNELS, DIM, ToyModel, ToyRunner, toy_attend

from astraea.engine import store as stores
from astraea.engine.blocks import RowGroup
from astraea.engine.call import Call, ReuseCall
from astraea.engine.cost import BlockCost
from astraea.engine.modes import MODES
from astraea.engine.plan import CACHE_POLICIES, Plan, make_plan
from astraea.engine.report import KINDS, Report
from astraea.engine.run import CallSite, Run
from astraea.engine.sampler_profile import SamplerProfile, falls
from astraea.engine.solver import Solver
from astraea.host.swap import swapped_forwards
from astraea.schedules import Schedule, flow_sigmas, rhythm, uniform, whole_steps

SLOWEST = 5.0  # seconds of one case, which is several runs
Draw = Callable[[Tensor], Tensor]


# --- samplers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampler:
    """A linear rule: each step goes from its latents towards a weighted sum of what it has been told.

    shares: of the newest predictions, by how many there are; seconds: by step, where a second call is made, as a share
    of the way to the next noise level, or None; mix: the second's part; noise: added after each step; restart: `(from,
    to)`, once the step `from` is over the latents are made noisy again and the run goes on at step `to`.
    """

    shares: tuple[tuple[float, ...], ...]
    seconds: tuple[float | None, ...]
    mix: float = 0.5
    noise: float = 0.0
    restart: tuple[int, int] | None = None

    def route(self) -> list[int]:
        steps = len(self.seconds)
        if self.restart is None:
            return list(range(steps))
        end, begin = self.restart
        return [*range(end + 1), *range(begin, steps)]

    def __call__(self, denoised: Any, sigmas: list[float], x: Any, draw: Any = None, on_step: Any = None) -> Any:
        """denoised(step, sigma, x) is the model; x may be a number or latents; draw: noise like x, or None for none."""
        told: list[Any] = []
        reached = -1
        for k in self.route():
            sigma, following = sigmas[k], sigmas[k + 1]
            if k <= reached:
                told = []
                x = x if draw is None else x + draw(x) * sigma
            reached = k
            told = [denoised(k, sigma, x), *told][: len(self.shares)]
            if on_step is not None:
                on_step(k)
            aim = sum(share * each for share, each in zip(self.shares[len(told) - 1], told, strict=True))
            part = self.seconds[k]
            if part is not None:
                between = sigma + part * (following - sigma)
                ahead = aim + (x - aim) * (between / sigma)
                aim = aim * (1.0 - self.mix) + self.mix * denoised(k, between, ahead)
            x = aim + (x - aim) * (following / sigma)
            if self.noise and draw is not None:
                x = x + draw(x) * (self.noise * following)
        return x


def some_sampler(rng: Generator, steps: int, last: float) -> Sampler:
    order = rng.choice([1, 1, 2, 3, 4, 6])
    shares = []
    for known in range(1, order + 1):
        older = [rng.uniform(-0.6, 0.3) for _ in range(known - 1)]
        shares.append((1.0 - sum(older), *older))
    kind = rng.choice(["one", "one", "two", "some"])
    place = rng.choice([0.0, 0.5, 1.0])
    seconds = [place if kind == "two" or (kind == "some" and rng.random() < 0.5) else None for _ in range(steps)]
    if last == 0.0:
        seconds[-1] = None
    end = rng.randrange(steps)
    restart = (end, rng.randrange(end + 1)) if rng.random() < 0.15 else None
    noise = rng.choice([0.0, 0.0, 0.5])
    return Sampler(tuple(shares), tuple(seconds), rng.choice([0.5, 1.0, 0.3]), noise, restart)


def profile_of(sampler: Sampler, sigmas: list[float]) -> SamplerProfile:
    """As the host's probe reads it: a run on each impulse, and one from 1."""
    asked: list[float] = []

    def latents(impulse: int | None, begin: float) -> list[float]:
        seen: list[float] = []
        asked.clear()

        def denoised(step: int, sigma: float, x: float) -> float:
            asked.append(sigma)
            seen.append(x)
            return float(len(seen) - 1 == impulse)

        end = sampler(denoised, sigmas, begin)
        return [*seen, end]

    starts = latents(None, 1.0)
    calls = list(asked)
    responses = [latents(impulse, 0.0) for impulse in range(len(calls))]
    return SamplerProfile.of_calls(sigmas, calls, Solver.of_responses(list(zip(*responses, strict=True)), starts))


def some_sigmas(rng: Generator) -> list[float]:
    steps = rng.choice([1, 2, 3, 4, 6, 8, 8, 10, 12, 16])
    kind = rng.randrange(6)
    if kind < 3:
        levels = flow_sigmas(steps, rng.choice([1.0, 3.0, 8.0, 50.0, 2000.0]))
    elif kind == 3:
        most = rng.choice([14.6, 80.0, 700.0])
        levels = [(most ** (1 / 7) + step / steps * (0.01 ** (1 / 7) - most ** (1 / 7))) ** 7 for step in range(steps)]
    elif kind == 4:
        levels = sorted((rng.uniform(1e-3, 1.0) for _ in range(steps)), reverse=True)
    else:
        levels = [1.0 - 0.5 * step / steps for step in range(steps)]
    sigmas = [*levels, 0.0 if rng.random() < 0.7 else levels[-1] * rng.uniform(0.3, 0.9)]
    return sigmas if falls(sigmas) else [*flow_sigmas(steps), 0.0]


# --- what the model is asked ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A conditioning. steps: those at which it is asked, `first … last`, or every `every` of them; frames: how many of
    the latents' it covers; tiles: calls for each of the sampler's, side by side; told: its noise levels over the run's.
    """

    key: tuple
    words: float
    weight: float
    device: int = 0
    first: int = 0
    last: int = 999
    every: int = 1
    frames: int | None = None
    tiles: int = 1
    told: float = 1.0

    @property
    def alike(self) -> tuple:
        """What those have in common that can be asked in one call."""
        return self.frames, self.tiles, self.told

    def is_asked(self, step: int) -> bool:
        return self.first <= step <= self.last and (step - self.first) % self.every == 0


@dataclass(frozen=True)
class Fault:
    """What goes wrong once, at the call of that number or later, at a place. is_caught: the call is then made again."""

    call: int
    place: str
    error: type[BaseException]
    is_caught: bool = False


class Interrupted(BaseException):
    """Stands for the host's: no Exception, so that nobody catches it by accident."""


@dataclass(frozen=True)
class Case:
    seed: int
    sigmas: list[float]
    sampler: Sampler
    profile: SamplerProfile
    plan: Plan
    shape: tuple[int, ...]
    dtype: torch.dtype
    model: ToyModel
    conditionings: tuple[Asked, ...]
    cost: BlockCost | None = None
    together: float = 1.0  # how often conditionings come in one call where they can
    shuffled: bool = False
    reports_steps: bool = True
    skips: float = 0.0
    why_full: float = 0.0
    fault: Fault | None = None
    no_room: tuple[str, ...] = ()  # cache policies for which there is no memory
    is_late: bool = False  # whether another device's call comes after the end
    is_usual: bool = True  # the profile is the sampler's, and levels are as it says: the budget must be kept


def some_plan(rng: Generator, sigmas: list[float], **more: Any) -> Plan:
    levels = flow_sigmas(rng.choice([1, 2, 10, 20, 30, 50]))
    if rng.random() < 0.3:
        levels = [sigma for sigma in sigmas if sigma > 0.0]
    schedule: Schedule = rng.choice(
        [
            lambda: whole_steps("whole", rng.choice([2, 3, 4]), levels),
            lambda: whole_steps("whole", rng.choice([2, 3, 4]), levels),
            lambda: rhythm("rhythm", [0.0, 1.0], levels, full_start=1),
            lambda: uniform("token", rng.choice([0.1, 0.4, 0.8]), levels),
            lambda: uniform("token", rng.choice([0.3, 0.6]), levels),
            lambda: rhythm("mixed", [0.0, 0.5, 0.0, 0.3], levels),
            lambda: rhythm("few", [0.05, 0.05, 0.9], levels),
            lambda: some_schedule(rng),
        ]
    )()
    target = rng.choice([1.0, 1.5, 2.0, 10.0]) if rng.random() < 0.1 else None
    return make_plan(
        schedule,
        mode=rng.choice([None, *MODES, "hold"]),
        budget=rng.choice([None, None, None, 0.1, 0.25, 0.4, 0.5, 0.7, 0.99]),
        target_speedup=target,
        cache=rng.choice([*CACHE_POLICIES, "auto", "full"]),
        choice=rng.choice(["", "'auto' chose it"]),
        others=[some_schedule(rng)] if rng.random() < 0.1 else [],
        **more,
    )


def some_conditionings(rng: Generator, steps: int, frames: int, tiles: int) -> tuple[Asked, ...]:
    guidance = rng.choice([1.0, 3.0, 6.0])
    found = [Asked(("positive", 0), 0.3, guidance, tiles=tiles)]
    if guidance != 1.0:
        found.append(Asked(("negative", 0), 1.1, 1.0 - guidance, rng.randrange(2), tiles=tiles))
    if rng.random() < 0.25:  # the prompt changes on the way
        change = rng.randrange(steps)
        found[0] = replace(found[0], last=change - 1)
        found.insert(0, replace(found[0], key=("positive", 1), words=2.0, first=change, last=999))
    if rng.random() < 0.25:
        area = rng.randrange(1, frames + 1)
        found.append(Asked(("area", area), 0.7, 0.2, rng.randrange(2), rng.randrange(steps), frames=area))
    if rng.random() < 0.25:  # windows that come and go
        count = rng.choice([2, 3])
        found += [Asked(("window", n), float(n), 0.1, n % 2, n, every=count) for n in range(count)]
    return tuple(found)


MODELS: dict[tuple, ToyModel] = {}
DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16)


def some_model(rng: Generator) -> ToyModel:
    key = (rng.choice([1, 2, 2]), rng.choice([(0, 0), (0, 0), (4, 0), (3, 5)]), rng.choice(DTYPES))
    if key not in MODELS:
        blocks, around, dtype = key
        MODELS[key] = ToyModel(0, blocks, *around).to(dtype)
    return MODELS[key]


def some_case(rng: Generator) -> Case:
    sigmas = some_sigmas(rng)
    steps = len(sigmas) - 1
    sampler = some_sampler(rng, steps, sigmas[-1])
    kind, is_usual = rng.randrange(10), True
    if kind < 6:
        profile = profile_of(sampler, sigmas)
    elif kind < 8:
        profile = SamplerProfile.unknown(sigmas, "it is not known")
        is_usual = sampler.seconds.count(None) == steps
    elif kind == 8:
        profile = SamplerProfile.of(sigmas)
        is_usual = sampler.seconds.count(None) == steps
    else:
        profile = profile_of(some_sampler(rng, steps, sigmas[-1]), sigmas)
        is_usual = False
    tiles = rng.choice([1, 1, 1, 2, 3])
    frames, height, width = rng.choice([1, 2, 3, 5]), rng.choice([1, 4, 4]), rng.choice([2, 6, 8]) * tiles
    conditionings = some_conditionings(rng, steps, frames, tiles)
    if rng.random() < 0.2:  # a node that tells the model other noise levels than the sampler's
        told = rng.choice([0.9, 0.97, 1.05, 0.5])
        every = rng.random() < 0.7
        conditionings = tuple(replace(c, told=told) if every or n == 0 else c for n, c in enumerate(conditionings))
        is_usual = False
    cost = BlockCost(frames * height * width, DIM, 4 * DIM) if rng.random() < 0.7 else None
    return Case(
        seed=rng.randrange(2**31),
        sigmas=sigmas,
        sampler=sampler,
        profile=profile,
        plan=some_plan(rng, sigmas),
        shape=(rng.choice([1, 1, 2, 3]), CHANNELS, frames, height, width),
        dtype=rng.choice(DTYPES),
        model=some_model(rng),
        conditionings=conditionings,
        cost=cost,
        together=rng.choice([1.0, 1.0, 0.5, 0.0]),
        shuffled=rng.random() < 0.4,
        reports_steps=rng.random() < 0.8,
        skips=rng.choice([0.0] * 18 + [0.2, 1.0]),
        why_full=rng.choice([0.0] * 18 + [0.2, 1.0]),
        no_room=rng.choice([()] * 9 + [("full",), ("full", "fp8"), ("full", "fp8", "fp8-host")]),
        is_usual=is_usual and sampler.restart is None,
    )


# --- the host ---------------------------------------------------------------------------------------------------------


class NoRoom(stores.ResidualStore):
    """A store that there is no memory for, or whose making goes wrong, as the current host says."""

    host: Host | None = None

    def __init__(self, size: Any, policy: str, dtype: torch.dtype, device: torch.device):
        if self.host is not None:
            self.host.at("allocation")
            if policy in self.host.case.no_room:
                raise torch.OutOfMemoryError("there is no room")
        super().__init__(size, policy, dtype, device)


class Host:
    """What ComfyUI does: makes the sampler's evaluations out of model calls, and puts the engine between."""

    def __init__(self, case: Case, run: Run | None, *, threads: bool = False):
        self.case, self.run, self.threads = case, run, threads
        # Each device has a model of its own.
        self.models = [case.model, copy.deepcopy(case.model) if threads else case.model]
        self.evaluations = self.calls = 0
        self.given: list[weakref.ref] = []
        self.computed: dict[tuple, Tensor] = {}  # the newest prediction of each tile of a conditioning
        self.fault = case.fault
        self._lock = threading.Lock()
        self._local = threading.local()

    def sample(self) -> Tensor:
        case = self.case
        noise = torch.Generator().manual_seed(case.seed)

        def draw(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=noise).to(x.dtype)

        x = draw(torch.empty(case.shape, dtype=case.dtype)) * case.sigmas[0]
        return case.sampler(self.denoised, case.sigmas, x, draw, self.on_step)

    def on_step(self, step: int) -> None:
        if self.run is not None and self.case.reports_steps:
            self.run.on_step(step)
        self.at("callback")

    def at(self, place: str) -> None:
        """Where something may go wrong."""
        fault, number = self.fault, getattr(self._local, "number", -1)
        if fault is not None and fault.place == place and number >= fault.call:
            self.fault = None
            raise fault.error("drawn")

    def denoised(self, step: int, sigma: float, x: Tensor) -> Tensor:
        self.evaluations += 1
        asked = [each for each in self.case.conditionings if each.is_asked(step)]
        told: dict[tuple, Tensor] = {}
        jobs = [lambda device=device: self.ask(device, asked, sigma, x, told) for device in (0, 1)]
        if self.threads:
            at_once(jobs)
        else:
            for job in jobs:
                job()
        result = torch.zeros_like(x)
        for each in asked:
            parts = [told[each.key, tile] for tile in range(each.tiles)]
            result[:, :, : each.frames] += each.weight * torch.cat(parts, dim=-1)
        return result

    def ask(self, device: int, asked: list[Asked], sigma: float, x: Tensor, told: dict[tuple, Tensor]) -> None:
        """The calls of one device."""
        rng = random.Random(f"{self.case.seed} {self.evaluations} {device}")
        for tile in range(max((each.tiles for each in asked), default=0)):
            left = [each for each in asked if each.device == device and tile < each.tiles]
            if self.case.shuffled:
                rng.shuffle(left)
            while left:
                call, left = [left[0]], left[1:]
                if rng.random() < self.case.together:
                    call += [each for each in left if each.alike == call[0].alike]
                    left = [each for each in left if each not in call]
                part = x[:, :, : call[0].frames].chunk(call[0].tiles, dim=-1)[tile]
                whole = torch.cat([part] * len(call))
                result = self.call_model(rng, device, call, tile, sigma * call[0].told, whole)
                for each, rows in zip(call, result.chunk(len(call)), strict=True):
                    told[each.key, tile] = rows.clone()
                result.fill_(math.nan)  # what was returned is the host's to change

    def call_model(self, rng: Generator, device: int, call: list[Asked], tile: int, sigma: float, x: Tensor) -> Tensor:
        with self._lock:
            self.calls += 1
            self._local.number = self.calls
        skipped, why = rng.random() < self.case.skips, "drawn" if rng.random() < self.case.why_full else ""
        arguments = (device, call, tile, sigma, x, skipped, why)
        fault = self.fault
        try:
            return self.apply_model(*arguments)
        except Exception:
            if fault is None or not fault.is_caught or self.fault is not None:
                raise
            return self.apply_model(*arguments)

    def apply_model(
        self, device: int, asked: list[Asked], tile: int, sigma: float, x: Tensor, skipped: bool, why_full: str
    ) -> Tensor:
        model, rows = self.models[device], x.shape[0] // len(asked)

        def forward() -> Tensor:
            self.at("model")
            words = torch.tensor([each.words for each in asked]).repeat_interleave(rows)
            told = torch.zeros_like(x) if skipped else model(x, sigma, words, lambda: self.at("block"))
            self.at("end")
            return told

        self.given.append(weakref.ref(x))
        if self.run is None:
            return forward()
        groups = tuple(RowGroup((*each.key, device), slice(n * rows, (n + 1) * rows)) for n, each in enumerate(asked))
        site = CallSite(
            sigma=sigma,
            groups=groups,
            layout=model.layout(tuple(x.shape)),
            runner=ToyRunner(),
            attend=toy_attend,
            blocks=len(model.blocks),
            device=x.device,
            why_full=why_full,
        )
        opened = self.run.open_call(site)
        if isinstance(opened, ReuseCall):
            told = opened.estimate()
        else:
            opened.skipped = skipped
            with swapped_forwards(model.blocks, opened):
                told = forward()
        result = self.run.close_call(opened, told)
        assert result.shape == x.shape
        assert result.dtype == x.dtype
        self.check_held(opened, [(*each.key, tile) for each in asked], result)
        self.given += [weakref.ref(told), weakref.ref(result)]
        return result

    def check_held(self, call: Call, keys: list[tuple], result: Tensor) -> None:
        """In mode hold a reused prediction is the newest one of its own conditioning and tile."""
        case = self.case
        # Calls that nobody foretold cannot be told from tiles, and neither can two at the first noise level.
        foretold = case.is_usual and len(set(case.profile.calls[:2])) != 1
        if not foretold or case.fault is not None or self.run is None or self.run.plan.mode.name != "hold":
            return
        for key, rows in zip(keys, result.chunk(len(keys)), strict=True):
            if call.kind == "reuse":
                assert torch.equal(rows, self.computed[key]), f"what {key} is told is not its own newest prediction"
            else:
                self.computed[key] = rows.clone()


def at_once(jobs: list[Callable[[], None]]) -> None:
    """Runs jobs in threads of their own; the first of their errors is raised once all are over."""
    errors: list[BaseException] = []

    def work(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- what has to hold -------------------------------------------------------------------------------------------------


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
        run = Run(plan, case.sigmas, profile=case.profile, cost=case.cost, family="toy", seed=case.seed, guidance=3.0)
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
        assert not run.branches
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
    assert len(run.budgets) == run.steps == len(run.evaluations)
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
        assert call.kind not in ("reuse", "skipped") or call.computed == 0
    if found.error or case.fault is not None or not report.calls:
        return
    assert len(report.calls) >= found.calls, "a call is not in the report"
    check_spent(case, report)


def check_spent(case: Case, report: Report) -> None:
    """No more than was asked for and a step, or why."""
    if not case.is_usual or any(" calls ran " in note or " noise levels " in note for note in report.notes):
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
    run_cases("runs", 90, check_alone, slowest=SLOWEST)


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
    run_cases("threads", 45, check_threads, slowest=SLOWEST)


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
    run_cases("stopped", 90, check_stopped, slowest=SLOWEST)
