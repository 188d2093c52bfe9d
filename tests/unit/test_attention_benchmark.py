"""The arithmetic of the attention benchmark, its predictions and its tables, on made-up times."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_benchmarks import imported


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("attention_tables", monkeypatch)


@pytest.fixture
def predictions(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("attention_predictions", monkeypatch)


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("attention_measure", monkeypatch)


@pytest.fixture
def correctness(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("attention_correctness", monkeypatch)


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("attention_block", monkeypatch)


def row(entrant: str, share: float, queries: int, *ms: float, need_lse: bool = False, **more: Any) -> dict[str, Any]:
    by_round = {str(number): spent for number, spent in enumerate(ms)}
    found = {
        "entrant": entrant,
        "need_lse": need_lse,
        "share": share,
        "queries": queries,
        "ms": sorted(ms)[len(ms) // 2],
    }
    return found | {"ms_by_round": by_round, "exact": True, "accurate": True} | more


def shape(*rows: dict[str, Any]) -> dict[str, Any]:
    sizes = {"tokens": 32760, "heads": 12, "head_dim": 128, "dtype": "bfloat16"}
    return {"label": "N 32760, H 12, D 128, bfloat16", **sizes, "rows": list(rows), "unavailable": {}, "failures": {}}


def test_operations_and_rates_have_the_units_they_say(tables: ModuleType) -> None:
    assert tables.operations(10, 20, 3, 64) == 4 * 10 * 20 * 3 * 64
    assert tables.teraflops(5e12, 10.0) == pytest.approx(500.0)
    assert tables.gigabytes_per_second(3e9, 1.5) == pytest.approx(2000.0)


def test_linearity_pairs_the_rounds_and_counts_the_rows_really_taken(tables: ModuleType) -> None:
    # The machine halves its speed in the second round: the pairs do not notice.
    few, whole = row("a", 0.25, 8192, 2.0, 4.0, 2.0), row("a", 1.0, 32768, 8.0, 16.0, 8.0)
    assert tables.linearity(few, whole) == pytest.approx(1.0)
    assert tables.linearity(row("a", 0.25, 4096, 2.0), whole) == pytest.approx(2.0)
    assert tables.paired_ratio(row("a", 1.0, 1, 1.0), {"ms_by_round": {}}) is None


def test_the_best_dense_is_exact_accurate_and_without_log_sum_exp(tables: ModuleType) -> None:
    entry = shape(
        row("right", 1.0, 32760, 10.0),
        row("right", 0.5, 16384, 6.0),
        row("approximate", 1.0, 32760, 5.0, exact=False),
        row("wrong", 1.0, 32760, 4.0, accurate=False),
        row("other", 1.0, 32760, 3.0, need_lse=True),
    )
    tables.derive_shape(entry, 1000.0)
    assert tables.best_dense(entry)["entrant"] == "right"
    whole, half, approximate, *_ = entry["rows"]
    assert whole["ratio"] == pytest.approx(1.0)
    assert half["ratio"] == pytest.approx(16384 / 32760 * 10.0 / 6.0)
    assert approximate["ratio"] == pytest.approx(2.0)
    assert half["linearity"] == pytest.approx(6.0 / (16384 / 32760 * 10.0))
    assert whole["teraflops"] == pytest.approx(4 * 32760**2 * 12 * 128 / 10e-3 / 1e12)
    assert whole["of_ceiling"] == pytest.approx(whole["teraflops"] / 1000.0)


def test_a_choice_is_held_against_the_fastest_at_each_share(tables: ModuleType) -> None:
    entry = shape(
        row("a", 1.0, 32760, 10.0), row("b", 1.0, 32760, 8.0), row("a", 0.5, 16384, 4.0), row("b", 0.5, 16384, 5.0)
    )
    entry["choices"] = {"without": {"backend": "a", "why": "timed"}}
    tables.derive_shape(entry, None)
    assert entry["choices"]["without"]["to_fastest"] == {"0.5": pytest.approx(1.0), "1": pytest.approx(1.25)}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("AMD Instinct MI300X", None),
        ("", None),
    ],
)
def test_predictions_are_found_by_the_device_name(predictions: ModuleType, name: str, family: str | None) -> None:
    found = predictions.predicted(name, {0.5: 16384}, ["cudnn", "triton"])
    assert found["family"] == family
    assert set(found["backends"]) == (set() if family is None else {"cudnn", "triton"})
    if family is not None:
        assert max(entry["ratio"] for entry in found["backends"].values()) == pytest.approx(1.0)


def test_no_prediction_exceeds_the_peak_of_its_device(predictions: ModuleType) -> None:
    for device in predictions.DEVICES:
        for name, entry in predictions.PREDICTIONS[device.family].items():
            assert 0.0 < entry.teraflops < device.matmul * (1.0 if entry.exact else 8 / 3), (device.family, name)


def test_a_last_wave_that_is_hardly_filled_costs_linearity(predictions: ModuleType) -> None:
    tile = predictions.Prediction(500.0, tile=128, resident=1)
    # 13 tiles of 12 heads on 132 processors: two waves for 1.2 of work.
    assert predictions.wave_linearity(1664, 32760, 12, tile, 132) == pytest.approx(2 / (1664 / 32760 * 24))
    assert predictions.wave_linearity(32760, 32760, 12, tile, 132) == 1.0


def test_a_race_pairs_rounds_and_keeps_failures_apart(measure: ModuleType) -> None:
    cases = [measure.Case(name, False, 1.0, 128) for name in ("quick", "slow", "broken")]
    spent = {"quick": 1.0, "slow": 5.0}
    turns: list[int] = []

    def work(name: str, turn: int) -> float:
        turns.append(turn)
        return spent[name]  # KeyError for the broken one

    works = {case: (lambda turn, name=case.entrant: work(name, turn)) for case in cases}
    times, failures = measure.race(works, lambda call: call(), rounds=9, until=float("inf"))
    assert [sorted(by_round) for by_round in times.values()] == [list(range(9)), [0, 4, 8]]
    assert list(failures) == ["broken"]
    assert turns == list(range(len(turns)))  # each call meets the next inputs
    (first, _) = measure.rows_of(times)
    assert first["ms"] == 1.0


def test_a_race_makes_its_least_rounds_when_the_time_is_up(measure: ModuleType) -> None:
    case = measure.Case("a", False, 1.0, 128)
    times, _ = measure.race({case: lambda turn: 1.0}, lambda call: call(), rounds=9, until=0.0)
    assert len(times[case]) == measure.LEAST_ROUNDS


def test_correct_backends_keep_what_they_owe_and_a_wrong_one_is_told(
    correctness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from astraea.kernels import Backend, Constraints
    from astraea.kernels.backends import reference

    def wrong(q, k, v, *, scale, need_lse):  # leaves its last row as it found it
        out, lse = reference.attend_reference(q, k, v, scale=scale)
        unwritten = torch.empty_like(out)
        unwritten[:, :-1] = out[:, :-1]
        return unwritten.fill_(float("nan")) if q.shape[1] == 1 else unwritten, lse + 0.1

    monkeypatch.setattr(correctness, "LENGTHS", ((5, 33), (1, 17), (130, 140)))
    dispatcher = type("Dispatcher", (), {})()
    dispatcher.backends = [reference.BACKEND, Backend("wrong", "", wrong, Constraints())]
    dispatcher.unsupported_reason = lambda backend, problem: ""
    monkeypatch.setattr(correctness, "DISPATCHER", dispatcher)
    right, off = correctness.correctness(torch.float32, 64, torch.device("cpu"), 0)
    assert right["reasons"] == []
    assert right["repeatable"]
    assert set(right["errors"]) == {"random", "peaked", "offset", "key tiles"}
    assert any("not finite" in reason for reason in off["reasons"])
    assert any("log-sum-exp off" in reason for reason in off["reasons"])


def test_the_block_for_all_rows_is_the_dense_block(block: ModuleType) -> None:
    size = block.BlockSize("small", 128, 256, (2, 4, 4), context=8)
    with torch.inference_mode():
        found = block.measure_block(size, torch.float32, torch.device("cpu"), 0, 1, 0.0)
        listed = block.passes(32, 128, torch.float32, torch.device("cpu"), 0.5, 0)
        for entry in listed:
            entry.run()
    assert found["difference"] < 1e-5
    assert found["failures"] == {}
    assert {r["entrant"] for r in found["rows"]} == {"dense, eager", "rows, eager"}


def made_up_result() -> dict[str, Any]:
    environment = {
        "gpu": "NVIDIA H100 80GB HBM3", "versions": "torch 2.13", "python": "3.12", "commit": "c" * 40,
        "seed": 0, "date": "today", "command": "python benchmarks/attention.py", "cpu": "a CPU", "threads": 2,
        "load_at_start": 0.1,
    }  # fmt: skip
    entry = shape(row("cudnn", 1.0, 32760, 11.0), row("cudnn", 0.5, 16384, 6.0), row("flash", 1.0, 32760, 19.0))
    entry["choices"] = {"without": {"backend": "cudnn", "why": "the fastest, timed"}}
    entry["unavailable"] = {"sage": "not installed"}
    checked = {
        "backend": "cudnn", "dtype": "bfloat16", "head_dim": 128, "errors": {"random": 2e-3}, "owed": 8e-3,
        "lse_error": None, "repeatable": True, "reasons": [],
    }  # fmt: skip
    dense, rows = row("dense, eager", 1.0, 32760, 20.0, cost=1.0), row("rows, eager", 0.5, 16384, 11.0, cost=0.52)
    block = {
        "label": "Wan",
        "tokens": 32760,
        "dim": 1536,
        "dtype": "bfloat16",
        "difference": 1e-3,
        "rows": [dense, rows],
    }
    gather = row("gather rows", 0.5, 16384, 0.04, bytes=1e8)
    return {
        "benchmark": "attention", "environment": environment, "shapes": [entry], "correctness": [checked],
        "ceilings": {"matmul": "8192³", "matmul_teraflops": 700.0, "copy": "2 GiB", "copy_gigabytes": 2900.0},
        "blocks": [block], "left_out": {"N 1": "the time was up"},
        "passes": [{"tokens": 32760, "dim": 1536, "share": 0.5, "rows": [gather]}],
    }  # fmt: skip


def test_the_table_sets_predicted_beside_measured(tables: ModuleType) -> None:
    predictions = sys.modules["attention_predictions"]
    result = made_up_result()
    result["predictions"] = predictions.predicted(result["environment"]["gpu"], {0.5: 16384}, ["cudnn"])
    tables.derive_shape(result["shapes"][0], 700.0)
    text = tables.attention_markdown(json.loads(json.dumps(result)))
    (cudnn, *_) = [line for line in text.splitlines() if line.startswith("| cudnn | 593 |")]
    assert cudnn.split(" | ")[2] == f"{4 * 32760**2 * 12 * 128 / 11e9:.0f}"
    assert "| flash | no prediction |" in text
    assert "| gather rows | 0.04 | 2500 | 86% | 90% | 0.20% |" in text
    assert "| eager | 0.5 | 16384 | 11 | 20 | 0.550 | 0.520 | 1.06 |" in text
    assert "* `sage`: not installed." in text
    assert "* N 1: the time was up" in text


def test_a_result_that_has_just_begun_has_a_table(tables: ModuleType) -> None:
    result = {"benchmark": "attention", "environment": made_up_result()["environment"], "shapes": []}
    assert tables.attention_markdown(result).startswith("# Attention on selected rows")


def test_the_table_of_a_cpu_compares_with_torchs_own(tables: ModuleType) -> None:
    result = made_up_result()
    result["environment"]["gpu"] = None
    entry = shape(
        row(tables.SDPA, 0.5, 16384, 10.0, 20.0, 10.0),
        row("attend: `cpu-flash`", 0.5, 16384, 9.0, 18.0, 9.0, need_lse=True),
        row("attend: `cpu-flash`", 1.0, 32760, 18.0, 36.0, 18.0, need_lse=True),
    )
    entry["prediction"] = {"linearity": {"0.5": 1.01}, "to_sdpa": 0.98, "to_sdpa_with_lse": 1.0}
    tables.derive_cpu_shape(entry)
    text = tables.attention_cpu_markdown(result | {"shapes": [entry]})
    assert (
        f"| with | 0.5 | 16384 | 9 | {4e3 * 16384 * 32760 * 12 * 128 / 9e9:.4g} | 1.000 | 1.01 | 0.90 | 1.00 |" in text
    )


def test_tables_py_knows_both_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in imported("tables", monkeypatch):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
        result = made_up_result() | {"shapes": [], "predictions": {"passes": {}}}
        for name in ("attention", "attention_cpu"):
            (tmp_path / f"{name}.json").write_text(json.dumps(result | {"benchmark": name}), "utf-8")
        module.main()
    assert {path.name for path in tmp_path.glob("*.md")} == {"attention.md", "attention_cpu.md"}
