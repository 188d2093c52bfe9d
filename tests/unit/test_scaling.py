"""The arithmetic of the measurement on several GPUs: bytes by the formula, rows and page from made-up measurements."""

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_benchmarks import imported

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "scaling_model.json"


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules, imported together and forgotten together."""
    imports = imported("tables", monkeypatch)
    found = {"writers": next(imports).WRITERS}
    names = ("cluster", "predict", "rows", "sent", "setting", "tables", "weights")
    found |= {name: importlib.import_module(f"lib.raylight.{name}") for name in names}
    found |= {name: importlib.import_module(f"lib.scaling.{name}") for name in ("formula", "inputs", "model")}
    yield SimpleNamespace(**found)
    next(imports, None)


def small(lib: SimpleNamespace, *, cfg: float = 1.0, steps: int = 10) -> Any:
    """8 heads in 3 layers; 2 × 4 × 4 tokens."""
    network = lib.model.Network("small", dim=1024, feed_forward=2048, layers=3, text=16)
    return lib.setting.Setting(network, lib.model.Clip("small", 5, 64, 64), steps, cfg, itemsize=2)


def test_all_that_divide_the_gpus_are_measured_or_those_of_a_list(lib: SimpleNamespace) -> None:
    assert lib.setting.counts([8]) == [1, 2, 4, 8]
    assert lib.setting.counts([6]) == [1, 2, 3, 6]
    assert lib.setting.counts([4, 1]) == [1, 4]


def test_gpus_divide_the_work_as_raylight_can(lib: SimpleNamespace) -> None:
    def division(gpus: int, of: Any, **degrees: int) -> Any:
        return lib.setting.division_of(gpus, of, attention="TORCH_FLASH", **degrees)

    setting = small(lib, cfg=5.0)
    assert division(1, setting, cfg=2).settings(1)["is_xdit"] is False, "one GPU divides nothing"
    assert division(8, setting).name == "Ulysses 8"
    assert division(8, setting, cfg=2, ring=2).name == "Ulysses 2 × ring 2 × cfg 2"
    assert division(2, setting, cfg=2).settings(2)["is_xdit"] is True
    for gpus, degrees, reason in ((16, {}, "8 heads"), (6, {"ring": 4}, "divided"), (2, {"ring": 4}, "divided")):
        with pytest.raises(ValueError, match=reason):
            division(gpus, setting, **degrees)
    with pytest.raises(ValueError, match="conditionings"):
        division(2, small(lib), cfg=2)
    assert [way.name for way in lib.setting.ways_of(division(2, setting, cfg=2))] == ["dense", "whole 0.5", "whole 0.3"]


def test_bytes_of_ulysses_are_those_of_the_formula(lib: SimpleNamespace) -> None:
    setting, division = small(lib, cfg=5.0), lib.cluster.Division(ulysses=4)
    by_formula = lib.formula.ulysses_bytes(tokens=32, ranks=4, dim=1024, layers=3, rows=2, itemsize=2, text=16)
    assert lib.sent.call_bytes(setting, division) == by_formula
    assert lib.sent.call_bytes(setting, lib.cluster.Division()) == 0


def test_bytes_of_a_ring_and_of_cfg_by_hand(lib: SimpleNamespace) -> None:
    # Two ranks with 16 tokens: k and v of tokens and text go on once per layer, the hidden states at the end.
    ring = lib.sent.call_bytes(small(lib), lib.cluster.Division(ring=2))
    assert ring == 2 * 1024 * (3 * 2 * (16 + 16) + 16)
    assert lib.sent.call_bytes(small(lib), lib.cluster.Division(ring=2), share=0.5) == ring, (
        "queries stay where they are"
    )
    both = lib.sent.call_bytes(small(lib), lib.cluster.Division(ulysses=2, ring=2))
    # Four ranks with 8 tokens; half of the channels of q, k, v and out, and of the text's k and v, leave for the other.
    assert both == 2 * 1024 * (3 * ((4 * 8 + 2 * 8 + 2 * 16) / 2 + 2 * (8 + 16)) + 3 * 8)
    prediction = 16 * 2 * 8 * 8
    assert lib.sent.call_bytes(small(lib, cfg=5.0), lib.cluster.Division(cfg=2)) == 2 * prediction


def test_a_runs_bytes_follow_its_calls(lib: SimpleNamespace) -> None:
    setting, division = small(lib, cfg=5.0), lib.cluster.Division(ulysses=2)
    full, half = (lib.sent.call_bytes(setting, division, share) for share in (1.0, 0.5))
    joined = [(0, 32, 32), (1, 0, 32), (2, 16, 32)]
    apart = [(step, done // 2, tokens // 2) for step, done, tokens in joined for _ in range(2)]
    assert lib.sent.bytes_of(setting, division, joined) == lib.sent.bytes_of(setting, division, apart) == full + half
    steps = lib.model.Steps(2, token=3, skipped=5, share=0.5)
    assert lib.sent.planned_bytes(setting, division, steps) == 2 * full + 3 * half


def test_plans_compute_what_their_budget_pays_for(lib: SimpleNamespace) -> None:
    _, half, third, tokens = (way.steps(20) for way in lib.setting.WAYS)
    assert (half.full, half.skipped, third.full, third.skipped) == (10, 10, 6, 14)
    assert tokens.full + tokens.token == 20
    assert tokens.full + tokens.token * tokens.share == pytest.approx(10)
    assert lib.setting.WAYS[1].steps(7).full == 3


def test_predictions_are_the_models_where_it_has_the_machine(lib: SimpleNamespace) -> None:
    setting = lib.setting.Setting(lib.inputs.WAN_14B, lib.inputs.CLIP_480P, 50, 5.0, 2)
    division = lib.cluster.Division(ulysses=8)
    found = {each["way"]: each for each in lib.predict.predictions(setting, [division], "NVIDIA H100 80GB HBM3")}
    committed = json.loads(RESULT.read_text("utf-8"))
    rows = committed["machines"][-1]["settings"][0]["rows"]
    row = next(row for row in rows if row["gpus"] == 8 and row["clip"] == "480p" and row["layout"] == "Ulysses 8")
    for way in ("dense", "whole 0.5", "whole 0.3"):
        assert found[way]["by"] == lib.predict.BY_MODEL
        assert found[way]["over_one"] == row["runs"][way]["speedup"]
        assert found[way]["sent_bytes"] == row["runs"][way]["sent_bytes"]
    for gpu, gpus in (("NVIDIA H200", 8), ("NVIDIA GeForce RTX 4090", 8)):
        found = lib.predict.predictions(setting, [lib.cluster.Division(ulysses=gpus)], gpu)
        assert {(each["by"], each["over_one"]) for each in found} == {(lib.predict.BY_COUNTING, None)}
        assert [each["over_dense"] for each in found[:3]] == [1.0, 2.0, round(50 / 15, 3)]


def run(lib: SimpleNamespace, seconds: float, sent: int = 0, formula: int = 0, way: str = "") -> dict[str, Any]:
    traffic = [{"bytes": {"all_to_all_single": sent, "all_reduce": 8}, "seconds": 0.1 * seconds}] * 2
    report = {"report": f"the line of {way}" if way else "", "devices": "", "calls": {"full": 10, "token": 0}}
    return lib.rows.run_record(seconds, traffic, formula, report)


def measured(lib: SimpleNamespace) -> dict[str, Any]:
    setting = small(lib)
    divisions = [lib.cluster.Division(), lib.cluster.Division(ulysses=2)]
    predictions = lib.predict.predictions(setting, divisions, "a GPU")
    runs = {
        (2, "tokens 0.5"): [run(lib, 5.0, 80, 81, "token steps")],
        (1, "dense"): [run(lib, 19.0), run(lib, 21.0)],
        (2, "dense"): [run(lib, 10.0, 1000, 1000), run(lib, 12.0, 1000, 1000)],
        (2, "whole 0.5"): [run(lib, 5.0, 500, 500, "whole steps"), run(lib, 5.0, 500, 500, "whole steps")],
    }
    names = {division.gpus: division.name for division in divisions}
    return {
        "benchmark": "scaling",
        "environment": dict.fromkeys(("comfyui", "torch", "python", "commit", "date", "command", "cpu", "gpu"), "some")
        | {"threads": 1, "seed": 0},
        "machine": {"versions": {"ray": "2", "NCCL": ""}, "gpus": ["a GPU"] * 2, "links": "GPU0 NV18 GPU1"},
        "setting": {
            "model": "small", "clip": "64 × 64", "tokens": 32, "steps": 10, "cfg": 1.0, "attention": "TORCH_FLASH",
            "repeats": 2,
        },
        "predictions": predictions,
        "rows": lib.rows.rows_of(runs, predictions, names),
        "dense_psnr": {"2": 41.2, "4": None},
        "left_out": [{"gpus": 1, "reason": "out of memory"}],
        "finished": True,
    }  # fmt: skip


def test_rows_compare_with_the_dense_runs_of_one_and_of_as_many(lib: SimpleNamespace) -> None:
    rows = measured(lib)["rows"]
    assert [(row["gpus"], row["way"]) for row in rows] == [
        (1, "dense"), (2, "dense"), (2, "whole 0.5"), (2, "tokens 0.5"),
    ]  # fmt: skip
    dense, whole, tokens = rows[1:]
    assert dense["over_one"] == pytest.approx(20 / 11)
    assert dense["predicted"]["over_one"] is None, "there is no prediction by counting for dense runs"
    assert (whole["over_dense"]["all"], whole["over_one"]) == ([2.0, 2.4], 4.0)
    assert whole["predicted"]["over_one"] == pytest.approx(2.0 * 20 / 11)
    assert (whole["sent_bytes"], whole["as_the_formula"], whole["agreement_bytes"]) == ([500], True, 8)
    assert (tokens["sent_bytes"], tokens["formula_bytes"], tokens["as_the_formula"]) == ([80], [81], False)
    assert (whole["collective_seconds"], whole["collective_share"]) == (pytest.approx(0.5), pytest.approx(0.1))


def test_the_page_states_what_was_measured_and_what_was_not(lib: SimpleNamespace) -> None:
    result = json.loads(json.dumps(measured(lib)))
    page = lib.writers[result["benchmark"]](result)
    line = "| 2 | Ulysses 2 | whole steps, 0.5 | 5.00 (5.00…5.00) | 2.20 (2.00…2.40) | 4.00 | 3.64 | counting |"
    assert line in page
    assert "| 1 | alone | dense | 20.00 (19.00…21.00) | – | – | – | – |" in page
    assert "| whole steps, 0.5 | 500 B | equal |" in page
    assert "| token steps, 0.5 (ran as whole steps) | 80 B | 81 B |" in page
    assert "2 × a GPU; ray 2." in page
    assert "* 1 GPU: out of memory." in page
    assert "2 GPUs 41 dB, 4 GPUs equal" in page
    assert "whole steps, 0.5: the line of whole steps" in page
    nothing = lib.tables.scaling_measured_markdown(result | {"rows": [], "machine": result["machine"] | {"gpus": []}})
    assert "Nothing was measured." in nothing
    assert "Not finished" not in page
    assert "Not finished" in lib.tables.scaling_measured_markdown(result | {"finished": False})
    assert "**A trial on the CPU: its seconds mean nothing.**" in nothing


def test_predictions_and_durations_are_said_before(lib: SimpleNamespace) -> None:
    predictions = measured(lib)["predictions"]
    table = lib.tables.prediction_table(predictions)
    assert "| 1 | whole steps, 0.5 | – | 2.00 | 2.00 | counting |" in table
    assert "| 2.00 × dense | counting |" in table
    halves = [each for each in predictions if each["way"] in ("dense", "whole 0.5")]
    assert lib.rows.minutes_of_all(60.0, 1, halves, 2) == pytest.approx(2 * (1 + 0.5 + 0.5 + 0.25))


def test_a_files_sizes_are_read_and_other_models_refused(lib: SimpleNamespace, tmp_path: Path) -> None:
    def written(**shapes: list[int]) -> Path:
        header = json.dumps({name.replace("__", "."): {"shape": shape} for name, shape in shapes.items()}).encode()
        path = tmp_path / "wan.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        return path

    sizes = {"patch_embedding__weight": [256, 16, 1, 2, 2], "blocks__0__ffn__0__weight": [1024, 256]}
    sizes["blocks__11__norm3__weight"] = [256]
    network = lib.weights.network_in(written(**sizes))
    assert (network.dim, network.feed_forward, network.layers) == (256, 1024, 12)
    others = ({"img_emb__proj__weight": [1]}, {"patch_embedding__weight": [256, 36, 1, 2, 2]})
    for other in others:
        with pytest.raises(ValueError, match="text-to-video"):
            lib.weights.network_in(written(**sizes | other))
    with pytest.raises(ValueError, match="no model of the Wan format"):
        lib.weights.network_in(written(some__weight=[1]))
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        lib.weights.network_in(tmp_path / "empty.safetensors")
