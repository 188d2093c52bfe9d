"""One clip over several processes: the same as one process makes, to the bit alike in all, with less sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import sequence_parallel as parallel
import torch
import torch.distributed as dist
from by_shard import select_by_shard
from sequence_parallel import CASES, CONFIG, DividedWan, PaddedWan, made, noise, plain
from test_benchmarks import imported

from astraea.engine.blocks.interface import BlockCall, TokenLayout
from astraea.engine.metrics import psnr, value_range
from astraea.engine.planning.plan import Plan, make_plan
from astraea.engine.report import FULL, REUSE, TOKEN, CallRecord, Report
from astraea.host.raylight import shards
from astraea.host.raylight.messages import Degrees, merged, plan_from, plan_values, report_from, report_values
from astraea.host.raylight.ranks import XFUSER, WorkerRanks, groups_of
from astraea.host.raylight.shards import by_shard
from astraea.models.wan import HUMO_BLOCK, WanRunner
from astraea.schedules import periodic, uniform
from astraea.tiny import standalone
from astraea.tiny.model import TinyWan
from astraea.tiny.words import context_for

SAME = 120.0  # dB: a rank's sums are rounded in another order
WHOLE = ["whole steps at 0.5", "whole steps at 0.3"]
FINISHED = [name for name, case in CASES.items() if case.interrupted_at is None]
OTHER_GPU = "no memory for the full store, on another GPU"


@dataclass(frozen=True)
class Ranks:
    """The results of each process of a set."""

    count: int
    results: list[dict[str, dict[str, Any]]]

    def each(self, case: str, name: str) -> list[Any]:
        """One of the results of `sequence_parallel.sample`, by rank."""
        return [results[case][name] for results in self.results]

    def reports(self, case: str) -> list[Report]:
        return [report_from(values) for values in self.each(case, "report")]

    def kinds(self, case: str) -> list[str]:
        return kinds(self.reports(case)[0])


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, parallel.__file__, str(request.param), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * parallel.SECONDS)
    assert done.returncode == 0, done.stderr
    return Ranks(request.param, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)])


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from imported("lib.scaling.formula", monkeypatch)


def one_process(name: str, model: Callable[[], TinyWan] = plain) -> tuple[torch.Tensor, Report]:
    """The latents and the report of a case in this process; an empty report of a dense run."""
    case = CASES[name]
    given = (made(model), noise(case.shape), *map(context_for, parallel.CONTEXT), parallel.SIGMAS)
    latents, report, _ = standalone.sample(*given, cfg=parallel.CFG, plan=case.plan)
    return latents, report or Report()


undivided = cache(one_process)  # the same for any number of ranks


def assert_same(ranks: Ranks, case: str, expected: torch.Tensor) -> None:
    got = ranks.each(case, "latents")[0]
    decibels = psnr(got, expected, value_range(expected))
    print(f"{case}, {ranks.count} ranks: {decibels:.1f} dB against one process")
    assert decibels >= SAME


def kinds(report: Report) -> list[str]:
    return [call.kind for call in report.calls]


def bytes_of(ranks: Ranks, case: str, formula: ModuleType) -> list[int]:
    """The bytes that a rank sends by step, by the formula."""
    shape = CASES[case].shape
    sizes = {"tokens": shape[2] * shape[3] * shape[4] // 4, "dim": CONFIG.dim, "layers": CONFIG.layers, "text": 0}
    call = partial(formula.ulysses_bytes, **sizes, ranks=ranks.count, rows=2, itemsize=4)
    if CASES[case].plan is None:
        return [call()] * parallel.STEPS
    calls = ranks.reports(case)[0].calls
    return [call(share=record.computed / record.tokens) if record.computed else 0 for record in calls]


@pytest.mark.parametrize("case", FINISHED)
def test_all_ranks_have_the_same_clip_to_the_bit(ranks: Ranks, case: str) -> None:
    first, *others = ranks.each(case, "latents")
    assert first.isfinite().all()
    assert all(torch.equal(first, other) for other in others)
    if CASES[case].plan is not None:
        expected, *reports = ranks.reports(case)
        assert all(kinds(report) == kinds(expected) for report in reports)


@pytest.mark.parametrize("case", ["dense", *WHOLE])
def test_it_is_the_clip_of_one_process(ranks: Ranks, case: str) -> None:
    expected, report = undivided(case)
    assert_same(ranks, case, expected)
    if case != "dense":
        assert ranks.kinds(case) == kinds(report)
        assert ranks.reports(case)[0].computed_share == report.computed_share < 1.0


def test_token_steps_are_those_of_one_process_by_shard(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    select_by_shard(monkeypatch, ranks.count)
    expected, report = one_process("token steps")
    assert_same(ranks, "token steps", expected)
    got = ranks.reports("token steps")[0]
    assert kinds(got).count(TOKEN) > parallel.STEPS // 2
    assert kinds(got) == kinds(report)
    assert [call.computed * ranks.count for call in got.calls] == [call.computed for call in report.calls]


@pytest.mark.parametrize("case", FINISHED)
def test_each_rank_sends_what_the_formula_says(ranks: Ranks, case: str, formula: ModuleType) -> None:
    expected = bytes_of(ranks, case, formula)
    assert len(expected) == parallel.STEPS
    for sent in ranks.each(case, "sent"):
        assert sent == expected


def test_half_the_steps_send_half_and_skipped_ones_nothing(ranks: Ranks) -> None:
    dense, half, tokens = (sum(ranks.each(case, "sent")[0]) for case in ("dense", "whole steps at 0.5", "token steps"))
    assert 2 * half == dense
    assert half < tokens < dense, "keys and values of all tokens are sent"
    for case in (*WHOLE, "no store"):
        for rank, report in enumerate(ranks.reports(case)):
            skipped = [call.step for call in report.calls if call.kind == REUSE]
            assert len(skipped) >= parallel.STEPS // 2
            for step in skipped:
                assert ranks.each(case, "sent")[rank][step] == ranks.each(case, "agreed")[rank][step] == 0


def test_agreements_are_a_number_per_computed_call_and_store(ranks: Ranks) -> None:
    number = 2 * 8 * (ranks.count - 1) // ranks.count
    # Two conditionings keep a store each. Where one does not fit, all are asked once more.
    stores = {"token steps": 2, "token steps in 8 bit": 2, "one full store": 3, "no full store": 4, "no store": 4}
    for case in FINISHED:
        begun = 2 if case == "uneven, token steps" else stores.get(case, 0)
        calls = [0] * parallel.STEPS if case == "dense" else [kind != REUSE for kind in ranks.kinds(case)]
        expected = [number * (count + (begun if step == 0 else 0)) for step, count in enumerate(calls)]
        assert ranks.each(case, "agreed") == [expected] * ranks.count, case


@pytest.mark.parametrize("case", ["no full store", "one full store"])
def test_a_store_that_one_rank_has_no_memory_for_is_a_smaller_one_in_all(ranks: Ranks, case: str) -> None:
    first, lacking, *others = ranks.reports(case)
    assert {report.cache_policy for report in ranks.reports(case)} == {"fp8"}
    for report in (first, *others):
        assert OTHER_GPU in report.notes
    assert any(note.startswith("no memory for the full store (") for note in lacking.notes)
    assert TOKEN in kinds(first)
    same = torch.equal(ranks.each(case, "latents")[0], ranks.each("token steps in 8 bit", "latents")[0])
    assert same == (case == "no full store"), "one conditioning keeps its store in full"


def test_if_one_rank_has_no_memory_for_any_store_all_skip_whole_steps(ranks: Ranks) -> None:
    first, lacking, *others = ranks.reports("no store")
    instead = "whole steps are skipped instead of tokens"
    for report in (first, *others):
        assert f"{instead}: {OTHER_GPU}" in report.notes
    assert any(note.startswith(f"{instead}: no memory for the full store (") for note in lacking.notes)
    with parallel.scarce(CASES["no store"].lacking):
        expected, report = one_process("no store")
    assert kinds(first) == kinds(report)
    assert set(kinds(first)) == {FULL, REUSE}
    assert_same(ranks, "no store", expected)


def test_an_interrupt_that_one_rank_sees_stops_all_at_the_same_call(ranks: Ranks) -> None:
    planned = ranks.kinds("whole steps at 0.5")
    stops_at = planned.index(FULL, (CASES["interrupted"].interrupted_at or 0) + 1)
    assert ranks.each("interrupted", "stopped") == [True] * ranks.count
    assert [len(sent) for sent in ranks.each("interrupted", "sent")] == [stops_at] * ranks.count
    for report in ranks.reports("interrupted"):
        assert kinds(report) == planned[:stops_at]
        assert not report.finished


@pytest.mark.parametrize("case", ["uneven, whole steps", "uneven, token steps"])
def test_uneven_parts_are_filled_up(ranks: Ranks, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    architecture_of, padded = standalone.architecture_of, 125 + -125 % ranks.count
    as_padded: Any = {"layout": lambda *_: TokenLayout(video=padded)}
    monkeypatch.setattr(standalone, "architecture_of", lambda model: replace(architecture_of(model), **as_padded))
    select_by_shard(monkeypatch, ranks.count)
    expected, report = one_process(case, partial(PaddedWan, ranks.count))
    assert_same(ranks, case, expected)
    assert ranks.reports(case)[0].calls[0].tokens == 2 * padded // ranks.count
    assert ranks.kinds(case) == kinds(report)


# Without other processes.


def alone(tmp_path: Path, gpus: int = 1) -> WorkerRanks:
    return WorkerRanks(gpus - 1, Degrees(gpus, sequence=gpus), [], str(tmp_path / "interrupt"))


def test_an_error_names_its_gpu_and_an_interrupt_stays_as_it_is(tmp_path: Path) -> None:
    error, interrupt = ValueError("no such layer"), InterruptedError("by the user")
    with pytest.raises(RuntimeError, match=r"^GPU 3 of 3: ValueError: no such layer$"):
        alone(tmp_path, 3).raise_named(error)
    alone(tmp_path, 3).raise_named(interrupt)  # the caller raises these again as they are
    alone(tmp_path, 1).raise_named(error)


def test_a_file_is_the_users_interrupt(tmp_path: Path) -> None:
    ranks = alone(tmp_path)
    ranks.throw_if_interrupted()
    (tmp_path / "interrupt").touch()
    with pytest.raises(InterruptedError):
        ranks.throw_if_interrupted()


def test_groups_are_those_that_make_the_same_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, prompts = SimpleNamespace(world_size=2, device_group="tokens"), SimpleNamespace(world_size=1)
    xfuser = SimpleNamespace(get_sp_group=lambda: tokens, get_cfg_group=lambda: prompts)
    monkeypatch.setitem(sys.modules, XFUSER, xfuser)
    assert groups_of(Degrees(2, data=2)) == []
    assert groups_of(Degrees(4, sequence=2, data=2)) == ["tokens"]
    assert len(groups_of(Degrees(2, data=2, shared_weights=True))) == 1


SPLIT = {"is_xdit": True, "ulysses_degree": 2, "ring_degree": 1, "cfg_degree": 1, "dp_degree": 0}
DEGREES = [
    (1, {}, Degrees(1), "1 GPU"),
    (2, {**SPLIT, "is_xdit": False, "ring_degree": 2}, Degrees(2, data=2), "2 GPUs, clips 2"),
    (4, {**SPLIT, "ring_degree": 2}, Degrees(4, sequence=4, ring=2), "4 GPUs, sequence 4"),
    (4, {**SPLIT, "cfg_degree": 2}, Degrees(4, sequence=2, cfg=2), "4 GPUs, sequence 2 × cfg 2"),
    (4, SPLIT, Degrees(4, sequence=2, data=2), "4 GPUs, sequence 2 × clips 2"),
    (2, {"is_fsdp": True, "dp_degree": 2}, Degrees(2, data=2, shared_weights=True), "2 GPUs, clips 2, shared weights"),
    (8, {**SPLIT, "is_fsdp": True}, Degrees(8, 2, shared_weights=True), "8 GPUs, sequence 2, shared weights"),
    (2, {"pipefusion_enabled": True, "dp_degree": None}, Degrees(2, pipeline=True), "2 GPUs"),
]


@pytest.mark.parametrize(("gpus", "settings", "degrees", "text"), DEGREES)
def test_degrees_are_read_from_raylights_settings(gpus: int, settings: dict, degrees: Degrees, text: str) -> None:
    assert Degrees.of(gpus, settings) == degrees
    assert degrees.text == text


def test_token_steps_are_taken_only_where_each_gpu_has_a_part_of_the_tokens() -> None:
    whole, speaking = standalone.architecture_of(made()), WanRunner(lambda parameter, like: parameter, HUMO_BLOCK)
    assert by_shard(whole, Degrees(2, data=2)) is whole
    assert by_shard(replace(whole, runner=None), Degrees(2, 2)).limit == ""
    refused = [
        (whole, Degrees(2, shared_weights=True), shards.SHARED_WEIGHTS),
        (whole, Degrees(4, 2, cfg=2), shards.DIVIDED_CONDITIONINGS),
        (replace(whole, runner=object()), Degrees(2, 2), shards.WAN_ALONE),
        (replace(whole, runner=speaking), Degrees(2, 2), shards.WAN_ALONE),
    ]
    for architecture, degrees, limit in refused:
        taken = by_shard(architecture, degrees)
        assert (taken.runner, tuple(taken.blocks), taken.limit) == (None, (), limit)


def test_a_gpus_part_of_the_tokens_is_rounded_up_and_has_none_around() -> None:
    whole = standalone.architecture_of(made())
    divided = by_shard(whole, Degrees(4, 4))
    assert divided.layout(parallel.UNEVEN, {}) == TokenLayout(video=32)
    assert divided.layout_limit(divided.layout(parallel.UNEVEN, {})) == ""
    for around in (TokenLayout(video=8, prefix=4), TokenLayout(video=8, suffix=4)):
        divided = by_shard(replace(whole, layout=lambda *_, given=around: given), Degrees(4, 4))
        assert divided.layout(parallel.SHAPE, {}) == around
        assert divided.layout_limit(around) == shards.TOKENS_AROUND


def test_a_block_runs_for_selected_tokens_only_with_raylights_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    runner: Any = by_shard(standalone.architecture_of(made()), Degrees(2, 2)).runner

    def reason(model: TinyWan, frames: int = 1, **options: Any) -> str:
        x, e = torch.zeros(1, 4, CONFIG.dim), torch.zeros(1, frames, 6, CONFIG.dim)
        block = model.blocks[0]
        named = {"e": e, "freqs": None, "context": None, "transformer_options": options}
        return runner.unsupported_reason(BlockCall(0, block, block.forward, (x,), named))

    monkeypatch.setitem(sys.modules, parallel.STAND_IN, parallel.stand_in())
    divided = made(partial(DividedWan, 2))
    assert reason(divided) == ""
    assert reason(divided, frames=2) == "its tokens have noise levels of their own"
    assert "another node patches inside it" in reason(divided, patches={"attn2_patch": [print]})
    assert reason(made()) == shards.OTHER_ATTENTION
    divided.blocks[0].self_attn.forward = print
    assert reason(divided) == shards.OTHER_ATTENTION


SIGMAS = parallel.SIGMAS[:-1]
PLANS = {
    "auto": make_plan(None, budget=0.4, library=[periodic("a", [0.0, 1.0], SIGMAS), periodic("b", [0.0], SIGMAS)]),
    "a schedule": make_plan(periodic("c", [0.3], SIGMAS), mode="paper", budget=0.5, cache="fp8-host", attention="sdpa"),
    "a speed": make_plan(uniform("d", 0.5, SIGMAS), target_speedup=2.0),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_sent_whole(name: str) -> None:
    plan: Plan = PLANS[name]
    assert plan_from(json.loads(json.dumps(plan_values(plan)))) == plan


def report(*computed: str, notes: tuple[str, ...] = (), **changes: Any) -> Report:
    calls = [CallRecord(step, 0.5, 1.0, kind, 4, 8, 0.1, "why") for step, kind in enumerate(computed)]
    return replace(Report("s", steps=3, calls=calls, notes=list(notes), finished=True), **changes)


def test_a_report_is_sent_whole() -> None:
    sent = report(FULL, REUSE, notes=("one",), sparse={"line": "half"}, devices="2 GPUs", cache_bytes=5)
    values = json.loads(json.dumps(report_values(sent)))
    assert report_from(values) == sent
    assert report_from({**values, "of a later version": 1}) == sent


def test_reports_are_merged_into_the_first_with_what_differs() -> None:
    first = report(FULL, REUSE, notes=("both",), cache_bytes=5, cache_policy="full")
    assert merged([first, report_from(report_values(first))], Degrees(2, sequence=2)) == replace(
        first, devices="2 GPUs, sequence 2"
    )
    other = report(FULL, FULL, notes=("both", "own"), cache_bytes=7, cache_policy="fp8", finished=False)
    got = merged([first, other, first], Degrees(3, sequence=3))
    assert got.notes[:2] == ["both", "GPU 2: own"]
    assert [note for note in got.notes[2:] if note.startswith("GPU 2 ")] == got.notes[2:]
    assert len(got.notes) == 4, "other steps, and another store"
    assert (got.calls, got.cache_bytes, got.finished, first.notes) == (first.calls, 7, False, ["both"])
