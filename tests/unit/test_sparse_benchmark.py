"""The speed benchmark of sparse attention: its arithmetic, its tables on made-up times, and small parts on the CPU."""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_attention_benchmark import made_up_result
from test_benchmarks import imported


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.sparse.speed_tables", monkeypatch)


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.sparse.speed", monkeypatch)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("sparse_speed", monkeypatch)


def row(kind: str, entrant: str, density: float, *ms: float, **more: Any) -> dict[str, Any]:
    found = {"kind": kind, "entrant": entrant, "orders": None, "exact": True, "density": density}
    found |= {"real_density": density, "ms": sorted(ms)[len(ms) // 2]}
    return found | {"ms_by_round": {str(number): spent for number, spent in enumerate(ms)}} | more


def made_up_shape(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "label": "N 32760, H 12, D 128, bfloat16", "head_dim": 128, "rows": list(rows), "failures": {"x": "broke."},
        "lists_choice": "own",
    }  # fmt: skip


def session_on_cpu(speed: ModuleType, folder: Path, name: str) -> Any:
    environment = made_up_result()["environment"] | {"gpu": None}
    result = {"benchmark": name, "environment": environment, "shapes": []}
    result["predictions"] = {"attention": {}, "block": {}, "model": {}, "targets": {"linearity": 1.1} | dict.fromkeys(
        ("selection", "probe"), 0.01
    )}  # fmt: skip
    args = argparse.Namespace(seed=0, small=True)
    return speed.SparseSession(torch.device("cpu"), args, math.inf, folder / "result.json", result, 1)


def test_linearity_counts_whole_tiles_and_pairs_rounds(tables: ModuleType) -> None:
    # The machine halves its speed in the second round: the pairs do not notice.
    few, whole = row("lists", "own", 0.3, 2.5, 5.0, 2.5, real_density=0.3125), row("lists", "own", 1.0, 8.0, 16.0, 8.0)
    assert tables.linearity(few, whole) == pytest.approx(1.0)
    assert tables.linearity(few | {"real_density": 0.25}, whole) == pytest.approx(1.25)
    assert tables.linearity(few, whole | {"ms_by_round": {}}) is None


def test_a_shape_compares_with_the_fastest_dense_and_the_prediction(tables: ModuleType) -> None:
    shape = made_up_shape(
        row("dense", "slow", 1.0, 12.0),
        row("dense", "quick", 1.0, 10.0),
        row("lists", "own", 0.5, 9.0, orders="mixed"),
        row("lists", "own", 0.5, 8.0, orders="raster"),
        row("lists", "own", 1.0, 16.0, orders="mixed"),
        row("selection", "", 0.5, 0.3),
        row("probe", "", 0.3, 0.4),
    )
    tables.derive_shape(shape, tables.predictions_for("NVIDIA H200"))
    _, quick, mixed, raster, whole, selection, probe = shape["rows"]
    assert tables.fastest_dense(shape) is quick
    assert (mixed["speedup"], mixed["predicted"]) == (pytest.approx(10 / 9), 1.18)
    assert (mixed["linearity"], raster["linearity"]) == (pytest.approx(9 / 8), None)
    assert (whole["linearity"], whole["predicted"]) == (pytest.approx(1.0), None)
    assert selection["to_dense"] == pytest.approx(0.03)
    assert probe["to_dense"] == pytest.approx(0.01)  # of one call in four


def test_predictions_are_a_devices_own(tables: ModuleType) -> None:
    assert tables.predictions_for("NVIDIA H200")["block"]["Wan 2.1 14B"] == 1.27
    assert tables.predictions_for("NVIDIA GeForce RTX 4090")["attention"]["128"]["0.3"] == 2.9
    assert tables.predictions_for(None)["targets"] == {"linearity": 1.15}
    unknown = tables.predictions_for("some card")
    assert (unknown["attention"], unknown["targets"]["linearity"]) == ({}, 1.1)


def test_the_predictions_follow_from_the_rates_that_they_name(tables: ModuleType) -> None:
    of_128, of_64 = (tables.PREDICTIONS["h200"]["attention"][dim] for dim in ("128", "64"))
    for by_density, rate in ((of_128, 0.62), (of_64, 0.98)):
        assert all(times == pytest.approx(0.95 * rate / float(d), rel=0.03) for d, times in by_density.items())
    model = tables.PREDICTIONS["h200"]["model"]
    assert all(
        times == pytest.approx(1 / (1 - 0.55 * (1 - 1 / of_128[density])), rel=0.01) for density, times in model.items()
    )


def test_the_table_has_predictions_shapes_blocks_models_and_what_was_left_out(tables: ModuleType) -> None:
    shape = made_up_shape(
        row("dense", "quick", 1.0, 10.0), row("lists", "own", 0.3, 5.0, orders="mixed", exact=False),
        row("lists", "own", 1.0, 16.0, orders="mixed"), row("selection", "", 0.3, 0.25), row("probe", "", 0.3, 8.0),
    )  # fmt: skip
    block = {"label": "Wan 2.1 1.3B", "tokens": 32760, "dtype": "bfloat16", "density": 0.3}
    block["rows"] = [row("dense", "", 1.0, 20.0), row("lists", "", 0.3, 16.0)]
    runs = [
        {"name": "dense", "density": 1.0, "seconds": 0.6, "peak_gib": 9.5},
        {"name": "density 0.3", "density": 0.3, "seconds": 0.4, "peak_gib": None, "computed_share": 0.31},
    ]
    model = {"description": "Wan", "frames": 81, "tokens": 32760, "steps": 10, "rows": runs}
    predictions = tables.predictions_for("NVIDIA H200")
    tables.derive_shape(shape, predictions)
    tables.derive_block(block, predictions)
    tables.derive_model(model, predictions)
    result = {"benchmark": "sparse_speed", "environment": made_up_result()["environment"], "predictions": predictions}
    result |= {"shapes": [shape], "blocks": [block], "model": model, "left_out": {"N 1": "the time was up"}}
    text = tables.WRITERS["sparse_speed"](json.loads(json.dumps(result)))
    assert "| attention, heads of 128, density 0.2 | 2.90 times as fast as dense |" in text
    assert f"| own (approximate) | mixed | 0.3 | 5 | 1 | 2.00 | 1.95 | {5 / 16 / 0.3:.3f} |" in text
    assert "| selection | 0.3 | 0.25 | 2.5% |" in text
    assert "| choice of the heads' ways, a 4th of it | 0.3 | 2 | 20% |" in text
    assert "| Wan 2.1 1.3B | 32760 | bfloat16 | 20 | 16 | 1.25 | 1.37 |" in text
    assert "| density 0.3 | 0.4000 | – | 1.50 | 1.37 | – | 0.31 |" in text
    assert "* N 1: the time was up" in text
    assert "* `x`: broke.\n" in text


def test_heads_take_the_orders_in_turn(speed: ModuleType) -> None:
    mixed, raster = (speed.choice_of(orders, 0.3, 4) for orders in ("mixed", "raster"))
    assert [each.order for each in mixed.candidates] == ["raster", "place", "cubes", "raster"]
    assert {each.order for each in raster.candidates} == {"raster"}
    assert {each.kind for each in mixed.candidates} == {"routed"}


@pytest.mark.parametrize("name", ["sparse_speed", "sparse_speed_cpu"])
def test_a_small_shape_has_every_kind_of_row(speed: ModuleType, tmp_path: Path, name: str) -> None:
    session = session_on_cpu(speed, tmp_path, name)
    shape = speed.VideoShape.of((4, 8, 10), 3, 64, torch.float32)
    with torch.inference_mode():
        speed.run_part(session, shape, 0.0)
    session.save()
    (entry,) = json.loads((tmp_path / "result.json").read_text("utf-8"))["shapes"]
    assert entry["failures"] == {}
    assert {r["kind"] for r in entry["rows"]} == {"dense", "lists", "selection", "probe"}
    lists = [r for r in entry["rows"] if r["kind"] == "lists" and r["orders"] == "mixed"]
    densities = speed.CPU_DENSITIES if name.endswith("cpu") else speed.GPU_DENSITIES
    assert [r["density"] for r in lists] == list(densities)
    assert [r["real_density"] for r in lists] == [math.ceil(5 * d - 1e-9) / 5 for d in densities]
    assert all(r["linearity"] is not None for r in lists)
    assert "## Attention over lists, N 320" in (tmp_path / "result.md").read_text("utf-8")


def test_a_block_over_all_tiles_is_the_dense_block(speed: ModuleType) -> None:
    size = speed.BlockSize("small", 256, 256, (2, 8, 12), context=8)
    with torch.inference_mode():
        works = speed.block_works(size, torch.float32, torch.device("cpu"), 0)
        dense, sparse = (works[kind]() for kind in ("dense", "lists"))
        works["lists"].args[0].self_attn.prepare(size.grid, 1.0, torch.device("cpu"))
        whole = works["lists"]()
    assert (whole - dense).norm() / dense.norm() < 1e-5
    assert (sparse - dense).norm() / dense.norm() > 1e-5


def test_a_small_block_has_its_speed_up(speed: ModuleType, tmp_path: Path) -> None:
    session = session_on_cpu(speed, tmp_path, "sparse_speed")
    with torch.inference_mode():
        speed.run_part(session, speed.BlockSize("small", 128, 256, (2, 8, 8), context=8), 0.0)
    (block,) = session.result["blocks"]
    assert block["failures"] == {}
    assert block["speedup"] > 0.0


def test_predictions_are_written_before_anything_is_measured(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sparse_speed.py", "--cpu", "--threads", "1", "--out", str(tmp_path)])
    args = script.arguments()
    assert script.start(args) is script.NO_HOST
    threads = torch.get_num_threads()
    try:
        session = script.begin(args, script.NO_HOST, math.inf)
    finally:
        torch.set_num_threads(threads)
    assert session.path == tmp_path / "sparse_speed-cpu-threads-1.json"
    written = json.loads(session.path.read_text("utf-8"))
    assert written["predictions"]["targets"]["linearity"] == 1.15
    assert written["shapes"] == []
    assert session.path.with_suffix(".md").read_text("utf-8").startswith("# Speed of sparse attention, on a CPU")
