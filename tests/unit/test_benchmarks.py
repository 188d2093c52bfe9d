"""The arithmetic between benchmark rows and the figures that the documentation states."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A benchmark script or a module of `lib`; both are forgotten afterwards."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module(name)
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")}
    for module in [module for module in sys.modules if module.partition(".")[0] in {"lib", *scripts}]:
        del sys.modules[module]


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.quality.derived", monkeypatch)


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("quality", monkeypatch)


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("document", monkeypatch)


def row(family: str, kind: str, setting: float, psnr: float, speed: float, cost: float) -> dict[str, Any]:
    return {
        "name": f"{family} {setting:g}",
        "family": family,
        "kind": kind,
        "budget": setting,
        "psnr": {"mean": psnr, "all": [psnr - 1.0, psnr + 1.0]},
        "temporal_psnr": {"mean": psnr - 10},
        "speedup": {"total": speed, "all": [speed, speed]},
        "computed_share": cost,
        "cost": {"1.3B": cost, "14B": min(1.0, cost + 0.05)},
    }


def test_a_cache_is_read_off_between_its_thresholds(derived: ModuleType) -> None:
    points = [(1.0, 50.0), (2.0, 40.0), (3.0, 20.0)]
    assert derived.value_at(points, 1.5) == (45.0, "interpolated")
    assert derived.value_at(points, 4.0) == (20.0, "beyond its fastest: taken there")
    assert derived.value_at([*points, (3.5, 48.0)], 1.5) == (48.0, "a point at least as fast")
    assert derived.value_at([], 2.0)[0] is None


def test_controls_are_compared_at_equal_cost_not_at_equal_tokens(derived: ModuleType) -> None:
    rows = [
        row("bundled", "default", 0.5, 50.0, 2.0, 0.50),
        row("uniform, paper", "control", 0.5, 48.0, 1.8, 0.56),
        row("uniform, paper", "control", 0.4, 36.0, 2.2, 0.46),
        row("whole steps, hold", "control", 0.5, 45.0, 2.0, 0.50),
        row("EasyCache", "EasyCache", 0.1, 30.0, 2.0, 0.50),
    ]
    (found,) = derived.derive(rows)
    assert found["minus_easycache"] == found["minus_easycache_same_tokens"] == pytest.approx(20.0)
    assert found["minus_easycache_temporal"] == pytest.approx(20.0)
    assert found["best_control 1.3B"] == "whole steps, hold"
    assert found["minus_best_control 1.3B"] == pytest.approx(5.0)
    assert 2.0 < found["minus_paper 1.3B"] < 14.0  # between its two points: neither is at the cost itself
    assert found["minus_easycache_pairs"] == [pytest.approx(20.0)] * 2
    assert found["minus_best_control_pairs 1.3B"] == [pytest.approx(5.0)] * 2
    assert found["minus_lazycache"] is None


def test_a_control_whose_every_point_costs_more_is_no_partner_but_paper_is(derived: ModuleType) -> None:
    rows = [
        row("bundled", "default", 0.3, 50.0, 3.0, 0.30),
        row("uniform, paper", "control", 0.3, 48.0, 2.0, 0.40),
    ]
    (found,) = derived.derive(rows)
    assert found["best_control 1.3B"] is None
    assert found["minus_paper 1.3B"] == pytest.approx(2.0)  # its cheapest point, in its favour


def test_a_control_counts_as_measured_a_little_above_the_cost_but_is_interpolated_at_it(derived: ModuleType) -> None:
    points = [(0.40, 50.0), (0.30, 40.0)]
    assert derived.level_at(points, 0.30) == pytest.approx(40.0)
    assert derived.level_at(points, 0.395) == pytest.approx(50.0)
    assert 43.0 < derived.level_at(points, 0.35) < 46.0
    assert derived.level_at(points, 0.292) == pytest.approx(40.0)
    assert derived.level_at(points, 0.28) is None


def test_a_control_measured_on_fewer_pairs_is_compared_on_those(derived: ModuleType) -> None:
    rows = [
        row("bundled", "default", 0.5, 50.0, 2.0, 0.50),
        row("whole steps, hold", "control", 0.5, 40.0, 2.0, 0.50),
    ]
    rows[1]["psnr"] = {"mean": 39.0, "all": [39.0]}  # the first pair is a hard one: both lose a decibel on it
    (found,) = derived.derive(rows)
    assert found["minus_best_control 1.3B"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("own", "stopped"),
    [([41.0, 41.5], True), ([43.0, 43.0], False), ([44.0, 44.0, 44.0], False), ([45.0] * 4, True), ([47.0] * 4, False)],
)
def test_a_control_far_behind_the_bundled_schedule_is_measured_no_further(
    quality: ModuleType, own: list[float], stopped: bool
) -> None:
    control = SimpleNamespace(kind="control", budget=0.5)
    assert quality.hopeless(control, {"psnr": own}, {0.5: [50.0] * 16}) is stopped
    assert not quality.hopeless(control, {"psnr": own}, {0.3: [50.0] * 16})
    assert not quality.hopeless(SimpleNamespace(kind="EasyCache", budget=None), {"psnr": own}, {0.5: [50.0] * 16})


def test_speed_is_told_from_the_pairs_that_have_a_dense_run(quality: ModuleType) -> None:
    figures = quality.speedup([4.0, 4.0], [2.0, 1.0, 100.0])
    assert figures["total"] == pytest.approx(8 / 3)
    assert figures["all"] == [2.0, 4.0]


def test_a_dense_run_that_differs_from_the_first_ends_the_benchmark(quality: ModuleType) -> None:
    references = quality.References(model=None, jobs=[None])
    references.check(0, torch.ones(3))
    assert references.of(0).equal(torch.ones(3))
    references.check(0, torch.ones(3))
    with pytest.raises(SystemExit, match="differ"):
        references.check(0, torch.zeros(3))


def test_documents_state_what_the_results_say(document: ModuleType) -> None:
    outdated = [
        path.name for path in document.TEXTS if document.filled(path.read_text("utf-8")) != path.read_text("utf-8")
    ]
    assert not outdated, "run python benchmarks/document.py"


@pytest.mark.parametrize(
    ("gain", "hard", "budgets", "worth"),
    [
        (0.4, 0.1, [1.0, 0.0, 1.0], True),
        (0.2, 0.1, [1.0, 0.0, 1.0], False),
        (0.4, -0.1, [1.0, 0.0, 1.0], False),
        (3.0, 0.1, [1.0, 0.5, 1.0], False),
    ],
)
def test_what_is_bundled_is_ahead_in_whole_steps_and_nowhere_behind(
    monkeypatch: pytest.MonkeyPatch, gain: float, hard: float, budgets: list[float], worth: bool
) -> None:
    finder = next(imported("find_schedules", monkeypatch))
    by = {"psnr_by": {"easy": 41.0, "hard": 40.0 + hard}, "psnr_by_drawn": {"easy": 40.0, "hard": 40.0}}
    assert finder.is_worth_it({"gain": {"mean": gain}, "budgets": budgets, **by}) is worth


def test_nothing_in_lib_imports_a_command_and_no_import_goes_in_circles() -> None:
    files = {path.relative_to(BENCHMARKS).with_suffix("").parts: path for path in BENCHMARKS.rglob("*.py")}
    commands = {parts[0] for parts in files if len(parts) == 1}
    arrows = {parts: imports_of(path, parts) for parts, path in files.items()}
    assert not [parts for parts, found in arrows.items() if any(len(target) == 1 for target in found & set(files))]
    assert commands, "no command was found"
    done: set[tuple[str, ...]] = set()
    while ready := {parts for parts, found in arrows.items() if parts not in done and not (found & set(files)) - done}:
        done |= ready
    assert not set(files) - done, "these import one another"


def imports_of(path: Path, parts: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Modules and names that a file imports, as paths below benchmarks/."""
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (*(parts[: -node.level] if node.level else ()), *(node.module.split(".") if node.module else ()))
            found |= {base, *((*base, alias.name) for alias in node.names)}
    return found
