"""What the fuzz tests share: seeded cases, a clock and a watchdog over them, and how a failing one is run again.

ASTRAEA_FUZZ_CASES multiplies the number of cases, for long runs. ASTRAEA_FUZZ_SEED runs the case of that seed alone.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

CASES_VARIABLE, SEED_VARIABLE = "ASTRAEA_FUZZ_CASES", "ASTRAEA_FUZZ_SEED"
MOST_FAILURES = 10  # after which no more cases are run
PATIENCE = 60.0  # seconds of the clock on the wall without any case ending: it waits for something

Check = Callable[[random.Random], None]


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
