"""Results equal those of a recorded commit to the bit: a part of `same_results`, in this process.

A record holds for one machine, as processors round differently. After a change that is meant to change results, write
it anew: `python tests/same_results/compare.py --comfyui TREE --record tests/same_results/recorded/<version>.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
from comfyui_version import __version__
from pack_nodes import new_maker

from same_results.digests import verdict
from same_results.facts import facts
from same_results.runs import RUNS, SHORT

RECORD = Path(__file__).resolve().parents[1] / "same_results" / "recorded" / f"{__version__}.json"

pytestmark = [
    pytest.mark.skipif(not RECORD.is_file(), reason=f"no results are recorded for ComfyUI {__version__}"),
    pytest.mark.skipif("ASTRAEA_TEST_GPU" in os.environ, reason="results are recorded on the CPU"),
]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """The recorded digests by run. Skips where they are of another machine."""
    record = json.loads(RECORD.read_text("utf-8"))
    own = facts()
    other = {name: (value, own.get(name)) for name, value in record["facts"].items() if own.get(name) != value}
    if other:
        differing = "; ".join(f"{name}: {there}, here {here}" for name, (there, here) in other.items())
        pytest.skip(f"results are recorded on another machine ({differing})")
    return record["runs"]


@pytest.fixture(scope="module")
def maker() -> Iterator[Any]:
    yield new_maker()
    comfy.model_management.unload_all_models()


@pytest.mark.parametrize("name", SHORT)
def test_a_run_gives_the_recorded_latents(name: str, recorded: dict[str, Any], maker: Any) -> None:
    (run,) = (each for each in RUNS if each.name == name)
    assert verdict(recorded[name], maker.make(run).as_dict()) == "same"
