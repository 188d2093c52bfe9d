"""The pack's nodes by their ids, for tests that hold whatever the code behind them is called."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def benchmark(name: str) -> ModuleType:
    """A module of the benchmarks; their folder does not stay on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module(name)


def new_maker() -> Any:
    """The benchmark's `Maker` with the nodes of the pack under test: `call(node_id, **inputs)`, `make(run)`."""
    sampling = benchmark("same_results_sampling")
    return sampling.Maker(pack_nodes(), ROOT)


def pack_nodes() -> dict[str, Any]:
    """The node classes by node id."""
    return benchmark("same_results_sampling").nodes_of(sys.modules["astraea"])
