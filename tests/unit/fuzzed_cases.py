"""Runs made at random: samplers, noise levels, plans, conditionings, and what goes wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from fuzzing import Generator, some_schedule
from torch import Tensor
from toy_transformer import CHANNELS, DIM, ToyModel

from astraea.engine.planning.cost import WHOLE_STEPS, BlockCost
from astraea.engine.planning.modes import MODES
from astraea.engine.planning.plan import Plan, make_plan
from astraea.engine.sampler.profile import SamplerProfile, is_falling
from astraea.engine.sampler.solver import Solver
from astraea.engine.state.residual_store import CACHE_POLICIES
from astraea.schedules import Schedule, flow_sigmas, periodic, uniform

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


def profile_of(sampler: Callable[..., float], sigmas: list[float]) -> SamplerProfile:
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
    return SamplerProfile.of_calls(
        sigmas, calls, Solver.from_impulse_response(list(zip(*responses, strict=True)), starts)
    )


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
    return sigmas if is_falling(sigmas) else [*flow_sigmas(steps), 0.0]


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
    cost: BlockCost = WHOLE_STEPS
    together: float = 1.0  # how often conditionings come in one call where they can
    shuffled: bool = False
    reports_steps: bool = True
    skips: float = 0.0
    full_reason: float = 0.0
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
            lambda: periodic("whole", [0.0] * rng.choice([1, 2, 3]) + [1.0], levels),
            lambda: periodic("whole", [0.0] * rng.choice([1, 2, 3]) + [1.0], levels),
            lambda: periodic("rhythm", [0.0, 1.0], levels, full_start=1),
            lambda: uniform("token", rng.choice([0.1, 0.4, 0.8]), levels),
            lambda: uniform("token", rng.choice([0.3, 0.6]), levels),
            lambda: periodic("mixed", [0.0, 0.5, 0.0, 0.3], levels),
            lambda: periodic("few", [0.05, 0.05, 0.9], levels),
            lambda: some_schedule(rng),
        ]
    )()
    target = rng.choice([1.0, 1.5, 2.0, 10.0]) if rng.random() < 0.1 else None
    budget = rng.choice([None, None, None, 0.1, 0.25, 0.4, 0.5, 0.7, 0.99])
    automatic = rng.random() < 0.3 and (budget is not None or target is not None)
    library = [replace(schedule, family="any"), *([some_schedule(rng)] if rng.random() < 0.3 else [])]
    return make_plan(
        None if automatic else schedule,
        mode=rng.choice([None, *MODES, "hold"]),
        budget=budget,
        target_speedup=target,
        cache=rng.choice([*CACHE_POLICIES, "auto", "full"]),
        library=library if automatic else (),
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
    cost = BlockCost.of(frames * height * width, DIM, 4 * DIM) if rng.random() < 0.7 else WHOLE_STEPS
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
        full_reason=rng.choice([0.0] * 18 + [0.2, 1.0]),
        no_room=rng.choice([()] * 9 + [("full",), ("full", "fp8"), ("full", "fp8", "fp8-host")]),
        is_usual=is_usual and sampler.restart is None,
    )
