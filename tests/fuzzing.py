"""What the fuzz tests share: seeded cases with a clock and a watchdog over them, and schedules made at random.

ASTRAEA_FUZZ_CASES multiplies the number of cases, for long runs. ASTRAEA_FUZZ_SEED runs the case of that seed alone.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from astraea.engine.planning.modes import MODES
from astraea.schedules import Forecast, Schedule, flow_sigmas

CASES_VARIABLE, SEED_VARIABLE = "ASTRAEA_FUZZ_CASES", "ASTRAEA_FUZZ_SEED"
MOST_FAILURES = 10  # after which no more cases are run
PATIENCE = 60.0  # seconds of the clock on the wall without any case ending: it waits for something

Generator = random.Random
Check = Callable[[Generator], None]


def seeds(count: int) -> range:
    """The seeds to run where `count` are run by default."""
    if only := os.environ.get(SEED_VARIABLE):
        return range(int(only), int(only) + 1)
    return range(max(1, round(count * float(os.environ.get(CASES_VARIABLE) or 1.0))))


def run_cases(name: str, count: int, check: Check, *, slowest: float | None = None) -> None:
    """Runs a check on the random numbers of many seeds; fails with the seeds of those that fail, wait or are slow.

    slowest: the most seconds of this thread's processor that a case may take.
    """
    at: list[Any] = [None, time.monotonic()]
    failed: list[tuple[int, BaseException]] = []

    def work() -> None:
        for seed in seeds(count):
            at[:] = seed, time.monotonic()
            began = time.thread_time()
            try:
                check(random.Random(f"{name} {seed}"))
                spent = time.thread_time() - began
                assert slowest is None or spent <= slowest, f"it took {spent:.2f} s"
            except BaseException as error:
                failed.append((seed, error))
                if len(failed) == MOST_FAILURES:
                    return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        if thread.is_alive() and time.monotonic() - at[1] > PATIENCE:
            raise AssertionError(f"{name}: the case of {SEED_VARIABLE}={at[0]} waits for something that never comes")
    if failed:
        told = "".join(f"\n  {SEED_VARIABLE}={seed}: {repr(error)[:500]}" for seed, error in failed)
        raise AssertionError(f"{name}: {len(failed)} cases fail{told}") from failed[0][1]


def some_levels(rng: Generator, steps: int) -> list[float]:
    """So many falling noise levels above 0."""
    kind = rng.randrange(6)
    if kind == 0:
        return flow_sigmas(steps, rng.choice([1.0, 3.0, 8.0, 100.0]))
    if kind == 1:
        return sorted((rng.uniform(1e-6, 1.0) for _ in range(steps)), reverse=True)
    if kind == 2:
        return sorted((10.0 ** rng.uniform(-6, 6) for _ in range(steps)), reverse=True)
    if kind == 3:
        return [1.0 - 1e-9 * step for step in range(steps)]
    if kind == 4:
        return [5e-324 * (steps - step) for step in range(steps)]
    most = rng.choice([14.6, 80.0, 700.0])
    return [most * level**3 + 1e-4 for level in flow_sigmas(steps, 1.0)]


def some_budgets(rng: Generator, steps: int) -> list[float]:
    kind = rng.randrange(5)
    if kind == 0:
        return [1.0, *(rng.choice([0.0, 1.0]) for _ in range(steps - 1))]
    if kind == 1:
        return [rng.random() for _ in range(steps)]
    if kind == 2:
        return [rng.choice([0.0, 0.05, 0.4, 1.0]) for _ in range(steps)]
    if kind == 3:
        return [rng.choice([0.0, 1.0, 5e-324, 0.5, 1e-3])] * steps
    period = rng.randrange(1, 6)
    return [1.0 if step % period == 0 else 0.0 for step in range(steps)]


def some_promise(rng: Generator) -> dict[str, Any]:
    told = {
        "psnr_db": round(rng.uniform(10.0, 90.0), 2),
        "speedup": round(rng.uniform(1.0, 4.0), 3),
        "seconds": rng.random(),
        "dense_seconds": rng.random() * 3.0,
        "steps": rng.randrange(1, 60),
        "device": "NVIDIA H100",
        "sampler": "euler",
        "cfg": rng.choice([1.0, 3.0, 6.5]),
        "latent": [1, 16, 21, 60, 104],
    }
    return {name: value for name, value in told.items() if rng.random() < 0.9}


def some_schedule(rng: Generator) -> Schedule:
    steps = rng.choice([1, 2, 3, 8, 20, 30, 50, rng.randrange(1, 200)])
    levels = some_levels(rng, steps)
    budgets = some_budgets(rng, steps)
    # Rounding may have made two levels one.
    points = tuple((s, b) for n, (s, b) in enumerate(zip(levels, budgets, strict=True)) if n == 0 or s < levels[n - 1])
    provenance: dict[str, Any] = {"found": "by hand", "figures": {"psnr_db": [40.0, 1e-7, 2**60]}}
    if rng.random() < 0.5:
        provenance["promise"] = some_promise(rng)
    if rng.random() < 0.5:
        provenance["budget"] = rng.choice([0.3, 0.5, 1, 0])
    if rng.random() < 0.5:
        provenance["guidance"] = rng.choice([1, 3.0, 7.5, 0.0])
    unit = rng.random
    forecast = Forecast(1e-3 + 0.9 * unit(), 0.1 + 10.0 * unit(), 1.5 * unit(), 30.0 * unit())
    return Schedule(
        rng.choice(["a", "my schedule", "wan-0.50 +x_1.b", "z" * 80]),
        points,
        rng.choice(["any", "wan", "ltxv"]),
        rng.choice(list(MODES)),
        forecast if rng.random() < 0.5 else Forecast(),
        provenance,
    )
