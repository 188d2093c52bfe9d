"""The model of one video over several GPUs: its bytes by hand, its bounds, and its page as it is committed."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from test_benchmarks import imported

from astraea.engine.planning.cost import BlockCost

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "scaling_model.json"


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.scaling.formula", monkeypatch)


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules and the command that writes all tables, imported together and forgotten together."""
    imports = imported("tables", monkeypatch)
    found = {"writers": next(imports).WRITERS}
    found |= {name: importlib.import_module(f"lib.scaling.{name}") for name in ("inputs", "model", "predict")}
    yield SimpleNamespace(**found)
    next(imports, None)


SMALL = {"tokens": 8, "ranks": 2, "dim": 4, "layers": 3, "rows": 1, "itemsize": 2, "text": 3}


def test_bytes_of_a_small_case_are_those_counted_by_hand(formula: ModuleType) -> None:
    # A rank has 4 tokens. Rows of 4 channels, of which half leave: q, k, v and out of 4 tokens (16), q and out of the
    # cross-attention (8), its k and v of 3 tokens (6). The all-gather sends 4 rows whole.
    assert formula.ulysses_bytes(**SMALL) == 2 * (3 * (16 + 8 + 6) * 2 + 4 * 4)
    # Half of the tokens: q and out of 2, k and v of 4; the hidden states of all tokens are gathered.
    assert formula.ulysses_bytes(**SMALL, share=0.5) == 2 * (3 * (2 * 2 + 2 * 4 + 2 * 2 + 6) * 2 + 4 * 4)
    # Four ranks, 2 tokens each: three quarters leave, and the all-gather goes to three.
    assert formula.ulysses_bytes(**SMALL | {"ranks": 4}) == 2 * (3 * (8 + 4 + 6) * 3 + 3 * 2 * 4)
    assert formula.ulysses_bytes(**SMALL | {"text": 0}) == 2 * (3 * 16 * 2 + 4 * 4), "cross-attention is not split"
    assert formula.cfg_bytes(prediction=10, itemsize=2) == 20


def test_bytes_are_padded_and_multiplied_as_they_are_sent(formula: ModuleType) -> None:
    bytes_of = formula.ulysses_bytes
    assert bytes_of(**SMALL | {"ranks": 1}) == 0
    assert bytes_of(**SMALL | {"tokens": 7}) == bytes_of(**SMALL), "padded to a multiple of the ranks"
    assert bytes_of(**SMALL | {"rows": 2}) == bytes_of(**SMALL | {"itemsize": 4}) == 2 * bytes_of(**SMALL)
    for wrong in ({"ranks": 3}, {"share": 1.1}):
        with pytest.raises(ValueError, match="ranks"):
            bytes_of(**SMALL | wrong)


def test_more_tokens_or_a_larger_share_send_more(formula: ModuleType) -> None:
    shares = [formula.ulysses_bytes(**SMALL | {"tokens": 800, "share": share}) for share in (0.0, 0.25, 0.5, 1.0)]
    sizes = [formula.ulysses_bytes(**SMALL | {"tokens": tokens}) for tokens in (8, 16, 800)]
    assert shares == sorted(set(shares))
    assert sizes == sorted(set(sizes))


def test_a_clip_has_the_tokens_of_its_latents(scaling: SimpleNamespace) -> None:
    clip = scaling.inputs.CLIP_720P
    assert (clip.prediction, clip.tokens) == (16 * 21 * 90 * 160, 75600)
    assert scaling.inputs.CLIP_480P.tokens == 32760


def test_work_is_the_cost_model_of_the_engine(scaling: SimpleNamespace) -> None:
    network, tokens = scaling.inputs.WAN_14B, 32760
    cost = BlockCost.of(tokens, network.dim, network.feed_forward, network.text)
    for share in (1.0, 0.5):
        counted = network.layers * tokens * (cost.always + share * cost.selected)
        assert network.work(tokens, share=share) == pytest.approx(counted, rel=3e-3), "text and last layer come on top"


def test_attention_to_the_text_does_not_split(scaling: SimpleNamespace) -> None:
    network, tokens = scaling.inputs.WAN_14B, 32760
    to_text = network.layers * tokens * 2 * network.text * network.dim
    assert to_text < network.work(tokens, 8) - network.work(tokens) / 8 < 1.2 * to_text


def test_skipped_steps_send_nothing(scaling: SimpleNamespace) -> None:
    model, clip = scaling.model, scaling.inputs.CLIP_480P
    device = model.Device(step_seconds=8.0, bytes_per_second=1e11, skipped_seconds=0.001)
    of = (scaling.inputs.WAN_14B, clip, device, model.Layout(1, 8), 2)
    seconds, sent = model.run_of(*of, model.Steps(50))
    half, sent_by_half = model.run_of(*of, model.Steps.whole(0.5, 50))
    assert 2 * sent_by_half == sent > 0
    assert half == pytest.approx(seconds / 2 + 25 * 0.001)
    assert model.run_of(*of, model.Steps.whole(0.0, 50)) == (pytest.approx(0.05), 0)


def test_one_gpu_takes_the_stated_time_and_sends_nothing(scaling: SimpleNamespace) -> None:
    model = scaling.model
    step = model.computed_step(scaling.inputs.WAN_14B, scaling.inputs.CLIP_480P, model.Device(8.0, 1e9), model.Layout())
    assert (step.computing, step.sending, step.sent) == (8.0, 0.0, 0)


def test_speed_ups_stay_below_those_of_the_gpus_and_grow_with_them(scaling: SimpleNamespace) -> None:
    for machine in scaling.predict.result()["machines"]:
        for setting in machine["settings"]:
            for clip in ("480p", "720p"):
                rows = [row for row in setting["rows"] if row["clip"] == clip]
                by_ulysses = [row["runs"]["dense"]["speedup"] for row in rows if not row["layout"].startswith("cfg")]
                assert by_ulysses == sorted(by_ulysses)
                assert all(row["runs"]["dense"]["speedup"] <= row["gpus"] for row in rows)
                assert all(2.01 > _gain(row, "whole 0.5") > 1.99 > _gain(row, "tokens 0.5") > 1.2 for row in rows)
        faster = [row["speedup"] for row in machine["bandwidths"] if row["clip"] == "720p"]
        assert faster == sorted(set(faster))


def _gain(row: dict[str, Any], mode: str) -> float:
    run = row["runs"][mode] or {"speedup": 1.5 * row["runs"]["dense"]["speedup"]}  # no room for token steps
    return run["speedup"] / row["runs"]["dense"]["speedup"]


def test_the_committed_result_is_what_the_model_says_now(scaling: SimpleNamespace) -> None:
    committed = json.loads(RESULT.read_text("utf-8"))
    assert committed == json.loads(json.dumps(scaling.predict.result())), "run python benchmarks/scaling_model.py"
    page = scaling.writers[committed["benchmark"]](committed)
    assert page == RESULT.with_suffix(".md").read_text("utf-8"), "run python benchmarks/tables.py"
    assert "**Nothing here was measured on several GPUs.**" in page


def test_every_figure_that_is_assumed_or_published_has_a_source(scaling: SimpleNamespace) -> None:
    found = scaling.predict.result()
    stated = [*found["published"], *(each for machine in found["machines"] for each in machine["assumed"])]
    assert [each for each in stated if "https://" not in each["source"] and each["source"] != "counted"] == []
