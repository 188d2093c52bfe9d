"""The arithmetic between benchmark rows and the figures that the documentation states."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A benchmark script or a module of `lib`; both are forgotten afterwards."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module(name)
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")}
    for module in [module for module in sys.modules if module.partition(".")[0] in {"lib", *scripts}]:
        del sys.modules[module]


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.quality.compare", monkeypatch)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.quality.tables", monkeypatch)


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("document", monkeypatch)


def point(family: str, setting: float, psnr: float, share: float, speed: float) -> dict[str, Any]:
    figure = {"mean": psnr, "max": psnr + 1.0, "all": [psnr - 1.0, psnr + 1.0]}
    flicker = {"mean": psnr - 10.0, "all": [psnr - 11.0, psnr - 9.0]}
    return {
        "family": family,
        "setting": setting,
        "psnr": figure,
        "temporal_psnr": flicker,
        "share": share,
        "speedup": {"total": speed},
    }


ROW = {
    "setting": "h3",
    "clips": "easy",
    "pairs": 2,
    "dense_seconds": 4.0,
    "points": [
        point("auto", 10, 60.0, 0.5, 2.0),
        point("fewer dense steps", 10, 41.0, 0.5, 2.0),
        point("paper's mode", 10, 37.0, 0.5, 1.5),
        point("whole steps, even", 10, 49.0, 0.5, 2.0),
        point("EasyCache", 0.1, 50.0, 0.75, 1.0),
        point("EasyCache", 0.4, 30.0, 0.25, 3.0),
    ],
}


def test_a_cache_is_read_off_between_its_thresholds(compare: ModuleType) -> None:
    points = [(1.0, 50.0), (2.0, 40.0), (3.0, 20.0)]
    assert compare.value_at(points, 1.5) == 45.0
    assert compare.value_at(points, 4.0) == 20.0, "beyond its fastest point: that one, in its favour"
    assert compare.value_at([*points, (3.5, 48.0)], 1.5) == 48.0, "a point at least as fast"
    assert compare.value_at([], 2.0) is None


def test_leads_are_taken_at_equal_calls_and_at_equal_time(compare: ModuleType) -> None:
    found = compare.compared(ROW, 10)
    assert (found["psnr"], found["seconds"]) == (60.0, 2.0)
    assert found["easycache"] == pytest.approx(60.0 - 45.0), "a quarter of the way from 4/3 to 4 times as fast"
    assert found["easycache_time"] == pytest.approx(60.0 - 40.0), "halfway between its speed-ups"
    assert (found["fewer"], found["paper"], found["fewer_flicker"]) == (19.0, 23.0, 19.0)
    assert (found["best"], found["best_control"]) == (11.0, "whole steps, even")


def test_a_cache_that_skips_nothing_in_a_pair_is_no_measure_of_skipping(compare: ModuleType) -> None:
    skipped_in_one = point("EasyCache", 0.05, 115.0, 0.6, 1.5)
    skipped_in_one["psnr"] |= {"max": 200.0, "all": [30.0, 200.0]}
    found = compare.compared({**ROW, "points": [*ROW["points"], skipped_in_one]}, 10)
    assert found["easycache"] == compare.compared(ROW, 10)["easycache"]


def test_a_setting_is_summed_up_over_its_models(tables: ModuleType) -> None:
    other = {
        **ROW,
        "clips": "hard",
        "points": [{**p, "psnr": {"mean": 50.0, "max": 50.0, "all": [50.0, 50.0]}} for p in ROW["points"]],
    }
    line = next(line for line in tables.usual([ROW, other]).splitlines() if "MiniMax" in line)
    assert "55.0 (50…60)" in line
    assert "+9.5 (+0…+19)" in line


def test_what_to_expect_is_stated_with_the_speed_up_that_steps_allow(tables: ModuleType) -> None:
    line = next(line for line in tables.expected([ROW]).splitlines() if "MiniMax" in line)
    assert line.endswith("| 10 of 20 | 2.0× | 60.0 (60…60) |")


def test_real_sizes_are_stated_beside_the_dense_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(name: str, seconds: float, speedup: float) -> dict[str, Any]:
        gib = 5.0 if name == "dense" else 5.5
        return {"name": name, "run_seconds": seconds, "speedup": speedup, "ideal_speedup": 2.0, "peak_gib": gib}

    names = ("bundled 0.5", "bundled 0.3", "uniform 0.5", "uniform 0.3")
    clip = {"frames": 81, "steps": 20, "rows": [row("dense", 24.0, 1.0), *(row(each, 16.0, 1.5) for each in names)]}
    text = next(imported("lib.host.tables", monkeypatch)).real_size([clip])
    assert "| 81 frames, 20 steps | everything | 1 | 24.0 s | – | – | – |" in text
    assert "| 81 frames, 20 steps | token steps | 0.3 | 16.0 s | 1.50× | 75% | 0.50 GiB |" in text


def test_a_placement_is_compared_with_the_best_of_those_drawn(tables: ModuleType) -> None:
    def found(steps: str, psnr: float) -> dict[str, Any]:
        return {"steps": steps, "psnr": [psnr]}

    drawn = [found("FrFF", 39.0), found("FFrF", 41.0)]
    points = [{"budget": 0.75, "auto": found("FFrF", 41.0), "even": found("FFrF", 40.0), "random": drawn}]
    text = tables.placements([{"case": "four", "sampling": "4 euler", "points": points}])
    assert "| 41.0 | 40.0 | 41.0 | 2 | +1.0 | +0.0 |" in text
    nothing_drawn = [{**points[0], "random": []}]
    assert "| – | 0 | +1.0 | – |" in tables.placements([{"case": "four", "sampling": "", "points": nothing_drawn}])


def test_a_search_is_compared_with_auto_on_the_same_pairs(tables: ModuleType) -> None:
    def row(contestant: str, psnr: float, spent: float) -> dict[str, Any]:
        keys = {"setting": "ltx", "clips": "easy", "budget": 0.5, "contestant": contestant}
        return {**keys, "psnr": [psnr, psnr], "spent": spent}

    text = tables.search_gains([row("auto", 40.0, 0.0), row("instant", 41.0, 2.5), row("instant", 40.0, 2.5)])
    assert "| LTX-2.3, easy | 0.5 | 40.0 | +0.5 |" in text
    assert "| dense-run equivalents |  |  | 2.5 |" in text


def test_every_row_of_the_main_table_has_a_model_and_calls_below_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = next(imported("lib.quality.settings", monkeypatch))
    for setting in settings.LISTED:
        assert setting.models
        assert all(2 <= calls < setting.steps for calls in setting.calls)
        assert setting.usual in setting.calls, setting.name
        assert not setting.levels or len(setting.levels) == setting.steps + 1


def test_documents_state_what_the_results_say(document: ModuleType) -> None:
    outdated = [
        path.name for path in document.TEXTS if document.filled(path.read_text("utf-8")) != path.read_text("utf-8")
    ]
    assert not outdated, "run python benchmarks/document.py"


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
