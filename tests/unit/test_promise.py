"""What a schedule promises: read from any provenance without an error, told, and kept by the right runs only."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from astraea.engine.blocks.interface import RowGroup, TokenLayout
from astraea.engine.calls.context import CallRequest
from astraea.engine.planning.cost import BlockCost
from astraea.engine.planning.plan import Plan, make_plan
from astraea.engine.report import Report
from astraea.engine.run import Run
from astraea.kernels import attend_reference
from astraea.schedules import (
    ExpectedResult,
    Schedule,
    expected_from,
    expected_of,
    flow_sigmas,
    parse,
    periodic,
    serialise,
)
from astraea.schedules.expected import describe

GRID = flow_sigmas(30)
COST = BlockCost.of(tokens=32760, dim=1536, feed_forward=8960)
DATA = {
    "psnr_db": 48.123,
    "speedup": 2.4,
    "seconds": 3.2,
    "dense_seconds": 7.68,
    "steps": 30,
    "device": "a card",
    "sampler": "euler",
    "cfg": 3.0,
    "latent": [1, 16, 4, 8, 8],
}
NESTED: list = []
for _ in range(50):
    NESTED = [NESTED]
NO_NUMBER = [None, "2.4", True, float("nan"), float("inf"), -float("inf"), -1.0, 0, 1e300, 10**400, [2.4], {}, NESTED]


def found_schedule(steps: int = 30, **changes: Any) -> Schedule:
    budgets = periodic("found", [0.0, 0.0, 1.0], flow_sigmas(steps))
    return replace(budgets, provenance={"promise": DATA | {"steps": steps} | changes})


def report_of(plan: Plan, steps: int) -> Report:
    return Run.of(plan, [*flow_sigmas(steps), 0.0], cost=COST).report


def test_a_promise_is_read_whole_and_survives_the_file() -> None:
    promise = expected_of(parse(serialise(found_schedule())))
    assert promise is not None
    assert promise == ExpectedResult(48.123, 2.4, 3.2, 7.68, 30, "a card", "euler", 3.0, (1, 16, 4, 8, 8))
    assert promise.as_dict() == DATA
    assert describe(promise) == "promises 2.4x at 48.1 dB (30 steps, euler, cfg 3)"


def test_loss_and_speed_alone_are_a_promise() -> None:
    promise = expected_from({"psnr_db": 40, "speedup": 2})
    assert promise == ExpectedResult(40.0, 2.0)
    assert promise is not None
    assert describe(promise) == "promises 2.0x at 40.0 dB"
    assert promise.as_dict() == {"psnr_db": 40.0, "speedup": 2.0}


@pytest.mark.parametrize("data", [None, "promise", 3, [], [DATA], NESTED, {}, {"psnr_db": 48.0}, {"speedup": 2.0}])
def test_without_both_figures_there_is_no_promise(data: Any) -> None:
    assert expected_from(data) is None
    assert expected_of(replace(found_schedule(), provenance={"promise": data})) is None
    assert expected_of(replace(found_schedule(), provenance={})) is None


@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda value: repr(value)[:20])
def test_what_is_no_sane_number_is_no_promise(value: Any) -> None:
    assert expected_from(DATA | {"psnr_db": value}) is None
    assert expected_from(DATA | {"speedup": value}) is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seconds", NO_NUMBER),
        ("dense_seconds", NO_NUMBER),
        ("cfg", NO_NUMBER),
        ("steps", [*NO_NUMBER, 30.0, 1001]),
        ("device", [None, 3, ["cuda"], "a\nb", "\x1b[31m", "x" * 81, NESTED]),
        ("sampler", [None, True, {}, "euler\t", "x" * 10_000]),
        ("latent", [None, 5, "1x16", {}, NESTED, [1, -1], [1.5], [True], [1] * 9, [10**400]]),
    ],
)
def test_the_rest_is_left_out_where_it_makes_no_sense(name: str, values: list) -> None:
    nothing = getattr(ExpectedResult(1.0, 1.0), name)
    for value in values:
        promise = expected_from(DATA | {name: value})
        assert promise is not None
        assert getattr(promise, name) == nothing
        assert promise.as_dict() == {key: kept for key, kept in DATA.items() if key != name}


def test_a_run_as_it_was_found_carries_the_promise_through_json() -> None:
    report = report_of(make_plan(found_schedule()), 30)
    assert (report.expected, report.expected_note) == (DATA, "")
    again = json.loads(json.dumps(report.as_dict()))
    assert again["expected"] == DATA
    assert expected_from(again["expected"]) == expected_of(found_schedule())
    assert Report().as_dict()["expected"] is None


def test_another_number_of_steps_is_told() -> None:
    report = report_of(make_plan(found_schedule()), 20)
    assert report.expected is None
    assert report.expected_note == "2.4x at 48.1 dB for 30 steps; this run has 20"
    assert not [note for note in report.notes if "dB" in note]


@pytest.mark.parametrize(("guidance", "kept"), [(None, True), (3.0, True), (3.02, True), (1.0, False), (6.0, False)])
def test_another_guidance_is_told(guidance: float | None, kept: bool) -> None:
    report = Run.of(make_plan(found_schedule()), [*GRID, 0.0], guidance=guidance).report
    assert (report.expected == DATA) == kept
    assert report.expected_note == ("" if kept else f"2.4x at 48.1 dB for guidance 3; this run has {guidance:g}")


def test_without_a_number_of_steps_the_schedule_has_it() -> None:
    plan = make_plan(replace(found_schedule(), provenance={"promise": {"psnr_db": 40.0, "speedup": 2.0}}))
    assert report_of(plan, 30).expected == {"psnr_db": 40.0, "speedup": 2.0}
    assert "for 30 steps; this run has 20" in report_of(plan, 20).expected_note


@pytest.mark.parametrize("steps", [20, 30])
@pytest.mark.parametrize(
    "changes",
    [{"budget": 0.6}, {"budget": 1.0}, {"target_speedup": 1.5}, {"mode": "hold"}],
    ids=["budget", "full", "target", "mode"],
)
def test_a_schedule_that_the_user_changed_promises_nothing(steps: int, changes: dict) -> None:
    report = report_of(make_plan(found_schedule(), **changes), steps)
    assert (report.expected, report.expected_note) == (None, "")


def test_its_own_mean_asked_for_is_no_change() -> None:
    schedule = found_schedule()
    assert report_of(make_plan(schedule, budget=schedule.mean_budget), 30).expected == DATA


def test_a_run_whose_store_fails_expects_nothing_any_more() -> None:
    run = Run.of(make_plan(found_schedule()), [*GRID, 0.0])
    assert run.report.expected == DATA
    call = run.begin_call(
        CallRequest(
            sigma=1.0,
            groups=(RowGroup("cond", slice(0, 1)),),
            layout=TokenLayout(4),
            runner=None,
            attend=attend_reference,
            blocks=1,
            device=torch.device("cpu"),
        )
    )
    call.store_failure = "no memory"
    run.end_call(call, torch.ones(1, 4))
    assert run.report.expected is None
