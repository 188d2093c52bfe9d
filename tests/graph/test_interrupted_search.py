"""After an interrupted search the host still knows its models: nothing looks like a leak, whatever runs next."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prompts import accelerated, node, search
from server import ComfyServer, PromptInterrupted

pytestmark = pytest.mark.slow
SMALL = b'"key":"small '  # in the run_log, of runs of small clips


def large_clips(**settings: Any) -> dict[str, Any]:
    """A search that begins on small clips."""
    size = node("EmptyHunyuanLatentVideo", width=128, height=128, length=21, batch_size=1)
    settings = {"budgets": "0.3", "effort": "good (30 clips)", "name": "cancelled"} | settings
    return search(**settings) | {"size": size}


def small_runs(server: ComfyServer) -> int:
    run_logs = (server.base / "user" / "astraea" / "search").glob("*.jsonl")
    return sum(run_log.read_bytes().count(SMALL) for run_log in run_logs)


def cancel_during_small_clips(server: ComfyServer, prompt: dict[str, Any]) -> None:
    before, end = small_runs(server), time.monotonic() + 300
    waiting = server.submit(prompt)
    while small_runs(server) < before + 2:
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)
    server.interrupt()
    with pytest.raises(PromptInterrupted):
        server.wait(waiting, seconds=20)


@pytest.mark.parametrize("earlier", [False, True], ids=["plain", "accelerated"])
def test_the_host_finds_no_leak_after_a_cancelled_search(earlier: bool, server: ComfyServer) -> None:
    """earlier: the MODEL has a plan of Astraea Accelerate, which the search takes off."""
    logged = len(server.log)
    extra: dict[str, Any] = {}
    if earlier:
        extra["fast"] = node("AstraeaAccelerate", model=["loader", 0], schedule="auto", budget=0.5, target_speedup=0.0)
    model = ["fast" if earlier else "loader", 0]
    for first_seed in (21, 22):
        cancel_during_small_clips(server, large_clips(model=model, first_seed=first_seed + 10 * earlier) | extra)
    plain = accelerated(steps=4)
    plain["sampler"]["inputs"] |= {"model": ["loader", 0], "seed": 50 + earlier}
    plain["save"] = node("SaveLatent", samples=["sampler", 0], filename_prefix="plain")
    del plain["accelerate"], plain["report"]
    server.queue(plain)
    assert "memory leak" not in server.log[logged:].lower()
