"""A host for runs of the engine made at random: it asks, tiles, splits, fails and stops as a case says."""

from __future__ import annotations

import copy
import math
import random
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from fuzzed_cases import Asked, Case
from fuzzing import Generator
from torch import Tensor
from toy_transformer import ToyRunner, toy_attend

from astraea.engine.blocks.interface import RowGroup
from astraea.engine.calls import ModelCall, ReuseCall
from astraea.engine.calls.block_hooks import patched_forwards
from astraea.engine.calls.context import CallRequest
from astraea.engine.run import Run
from astraea.engine.state import residual_store as stores


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
        skipped, why = rng.random() < self.case.skips, "drawn" if rng.random() < self.case.full_reason else ""
        arguments = (device, call, tile, sigma, x, skipped, why)
        fault = self.fault
        try:
            return self.apply_model(*arguments)
        except Exception:
            if fault is None or not fault.is_caught or self.fault is not None:
                raise
            return self.apply_model(*arguments)

    def apply_model(
        self, device: int, asked: list[Asked], tile: int, sigma: float, x: Tensor, skipped: bool, full_reason: str
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
        site = CallRequest(
            sigma=sigma,
            groups=groups,
            layout=model.layout(tuple(x.shape)),
            runner=ToyRunner(),
            attend=toy_attend,
            blocks=len(model.blocks),
            device=x.device,
            full_reason=full_reason,
        )
        opened = self.run.begin_call(site)
        if isinstance(opened, ReuseCall):
            told = opened.estimate()
        else:
            with patched_forwards(model.blocks, opened):
                told = forward()
        result = self.run.end_call(opened, told, skipped and not isinstance(opened, ReuseCall))
        assert result.shape == x.shape
        assert result.dtype == x.dtype
        self.check_held(opened, [(*each.key, tile) for each in asked], result)
        self.given += [weakref.ref(told), weakref.ref(result)]
        return result

    def check_held(self, call: ModelCall, keys: list[tuple], result: Tensor) -> None:
        """In mode hold a reused prediction is the newest one of its own conditioning and tile."""
        case = self.case
        # Calls that nobody foretold cannot be told from tiles, and neither can two at the first noise level.
        foretold = case.is_usual and len(set(case.profile.calls[:2])) != 1
        if not foretold or case.fault is not None or self.run is None or self.run.context.mode.name != "hold":
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
