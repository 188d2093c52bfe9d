"""Records of kernels as anybody may have written them: read, or passed over."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged_files import SLOWEST, change, damaged, put_file, written
from fuzzing import Generator, run_cases

from astraea.kernels import autotune_cache
from astraea.kernels.dispatch import BACKENDS, Dispatcher, describe_choice
from astraea.kernels.problem import Problem

PROBLEM = Problem.of(*(torch.zeros(1, 4, 1, 64) for _ in range(3)), need_lse=False, key_tiles=False)


def check_records(rng: Generator, key: str) -> None:
    """Reading never raises, and writing puts in what is read back, whatever was there."""
    for section in autotune_cache.SECTIONS:
        entries = autotune_cache.read(section)
        assert all(isinstance(entry, dict) for entry in entries.values())
    choice = Dispatcher()._read_choice(key, PROBLEM, None)
    if choice is not None:
        assert describe_choice(choice, PROBLEM)
        ratio = choice.ratio_to(rng.choice(BACKENDS).name)
        assert ratio is None or ratio >= 0.0
    section = rng.choice(autotune_cache.SECTIONS)
    autotune_cache.write("fresh", {"backend": "host", "milliseconds": {"host": 1.5}}, section)
    if not autotune_cache.path().is_dir():
        assert autotune_cache.read(section)["fresh"] == {"backend": "host", "milliseconds": {"host": 1.5}}


def test_records_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    key = autotune_cache.key(PROBLEM, "auto")

    def check(rng: Generator) -> None:
        with tempfile.TemporaryDirectory() as name:
            monkeypatch.setenv(autotune_cache.FOLDER_VARIABLE, name)
            if rng.random() < 0.2:
                put_file(rng, Path(name), autotune_cache.path().name)
                check_records(rng, key)
                return
            times = {backend.name: rng.uniform(0.01, 9.0) for backend in BACKENDS if rng.random() < 0.8}
            choices = {key: {"backend": rng.choice(BACKENDS).name, "milliseconds": times}, "b": {"backend": "host"}}
            trials: dict[str, Any] = {"t": {"began": 1.5e9}, "u": {"came back": True}}
            data: Any = {"format": autotune_cache.FORMAT, "choices": choices, "trials": trials}
            for _ in range(rng.randrange(4)):
                change(rng, data)
            content = written(data).encode("utf-8", "surrogatepass")
            autotune_cache.path().write_bytes(damaged(rng, content) if rng.random() < 0.3 else content)
            check_records(rng, key)

    run_cases("records", 140, check, slowest=SLOWEST)
