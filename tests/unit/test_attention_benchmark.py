"""The arithmetic of the attention benchmark and its tables, on made-up times."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_benchmarks import imported


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.attention.tables", monkeypatch)


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.attention.measure", monkeypatch)


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.attention.block", monkeypatch)


def row(entrant: str, share: float, queries: int, *ms: float, need_lse: bool = False, **more: Any) -> dict[str, Any]:
    by_round = {str(number): spent for number, spent in enumerate(ms)}
    found = {
        "entrant": entrant,
        "need_lse": need_lse,
        "share": share,
        "queries": queries,
        "ms": sorted(ms)[len(ms) // 2],
    }
    return found | {"ms_by_round": by_round, "exact": True} | more


def shape(*rows: dict[str, Any]) -> dict[str, Any]:
    sizes = {"tokens": 32760, "heads": 12, "head_dim": 128, "dtype": "bfloat16"}
    return {"label": "N 32760, H 12, D 128, bfloat16", **sizes, "rows": list(rows), "unavailable": {}, "failures": {}}


def test_operations_and_rates_have_the_units_they_say(tables: ModuleType) -> None:
    assert tables.operations(10, 20, 3, 64) == 4 * 10 * 20 * 3 * 64
    assert tables.teraflops(5e12, 10.0) == pytest.approx(500.0)


def test_linearity_pairs_the_rounds_and_counts_the_rows_really_taken(tables: ModuleType) -> None:
    # The machine halves its speed in the second round: the pairs do not notice.
    few, whole = row("a", 0.25, 8192, 2.0, 4.0, 2.0), row("a", 1.0, 32768, 8.0, 16.0, 8.0)
    assert tables.linearity(few, whole) == pytest.approx(1.0)
    assert tables.linearity(row("a", 0.25, 4096, 2.0), whole) == pytest.approx(2.0)
    assert tables.paired_ratio(row("a", 1.0, 1, 1.0), {"ms_by_round": {}}) is None


def test_the_best_dense_is_exact_and_without_log_sum_exp(tables: ModuleType) -> None:
    entry = shape(
        row("right", 1.0, 32760, 10.0),
        row("right", 0.5, 16384, 6.0),
        row("approximate", 1.0, 32760, 5.0, exact=False),
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
    assert len(times[case]) == measure.MIN_ROUNDS


def test_accuracy_has_a_row_for_each_backend_and_the_reason_against_a_wrong_one(
    measure: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from astraea.kernels import Backend, Constraints
    from astraea.kernels.backends import reference
    from astraea.kernels.dispatch import Dispatcher

    def wrong(q, k, v, *, scale, need_lse):
        out, lse = reference.attend_reference(q, k, v, scale=scale)
        return 1.01 * out, lse

    backends = [reference.BACKEND, Backend("wrong", "", wrong, Constraints())]
    monkeypatch.setattr(measure, "DISPATCHER", Dispatcher(backends))
    right, off = measure.accuracy(torch.float32, 64, torch.device("cpu"))
    assert right["reasons"] == []
    assert 0.0 < right["errors"]["self-test"] < right["owed"]
    assert off["errors"]["self-test"] == pytest.approx(0.01, rel=0.01)
    assert "off by" in off["reasons"][0]


def test_the_block_for_all_rows_is_the_dense_block(block: ModuleType) -> None:
    size = block.BlockSize("small", 128, 256, (2, 4, 4), context=8)
    with torch.inference_mode():
        found = block.measure_block(size, torch.float32, torch.device("cpu"), 0, 1, 0.0)
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
    return {
        "benchmark": "attention", "environment": environment, "shapes": [entry], "correctness": [checked],
        "ceilings": {"matmul": "8192³", "matmul_teraflops": 700.0, "copy": "2 GiB", "copy_gigabytes": 2900.0},
        "blocks": [block], "left_out": {"N 1": "the time was up"},
    }  # fmt: skip


def test_the_table_has_rates_blocks_and_reasons(tables: ModuleType) -> None:
    result = made_up_result()
    tables.derive_shape(result["shapes"][0], 700.0)
    text = tables.attention_markdown(json.loads(json.dumps(result)))
    assert f"| cudnn\\* | without | 1 | 32760 | 11 | 1 | {4 * 32760**2 * 12 * 128 / 11e9:.4g} |" in text
    assert "| 0.5 | 16384 | 11 | 20 | 0.550 | 0.520 | 1.06 |" in text
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
    tables.derive_cpu_shape(entry)
    text = tables.attention_cpu_markdown(result | {"shapes": [entry]})
    assert f"| with | 0.5 | 16384 | 9 | {4e3 * 16384 * 32760 * 12 * 128 / 9e9:.4g} | 1.000 | 0.90 |" in text


def test_tables_py_knows_both_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in imported("tables", monkeypatch):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
        result = made_up_result() | {"shapes": []}
        for name in ("attention", "attention_cpu"):
            (tmp_path / f"{name}.json").write_text(json.dumps(result | {"benchmark": name}), "utf-8")
        module.main()
    assert {path.name for path in tmp_path.glob("*.md")} == {"attention.md", "attention_cpu.md"}
