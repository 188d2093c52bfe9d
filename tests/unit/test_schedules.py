"""Schedules: what is a valid one, the file format, and budgets on other grids than a schedule's own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from astraea.errors import ScheduleError
from astraea.schedules import (
    DEFAULT_FORECAST,
    Forecast,
    Schedule,
    budgets_for,
    flow_sigmas,
    load,
    parse,
    periodic,
    save,
    serialise,
    uniform,
    warped_skip,
    without_partial_steps,
)

GRID = flow_sigmas(30)
SHAPES = {
    "0 0 1": periodic("a", [0.0, 0.0, 1.0], GRID),
    "0 1": periodic("b", [0.0, 1.0], GRID),
    ".05 .05 .9": periodic("c", [0.05, 0.05, 0.9], GRID),
    "uniform": uniform("d", 0.4, GRID),
    "0 0 .7": periodic("e", [0.0, 0.0, 0.7], GRID),
}
SHAPE = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def grid(steps: int, shift: float = 8.0) -> list[float]:
    return [*flow_sigmas(steps, shift), 0.0]


def text_with(**changes) -> str:
    data = json.loads(serialise(SHAPES["0 1"]))
    data.pop("mean_budget")
    data.update(changes)
    return json.dumps(data)


@SHAPE
def test_file_gives_back_the_schedule(tmp_path, shape):
    path = save(shape, tmp_path)
    assert load(path) == shape
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no temporary file stays"


def test_save_never_overwrites_unasked(tmp_path):
    save(SHAPES["0 1"], tmp_path)
    with pytest.raises(ScheduleError, match="exists"):
        save(SHAPES["0 1"], tmp_path)
    save(SHAPES["0 1"], tmp_path, overwrite=True)


def test_save_into_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ScheduleError, match="cannot be written"):
        save(SHAPES["0 1"], tmp_path / "taken")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an Astraea schedule"),
        ('{"format": "astraea-schedule"}', "version None"),
        (text_with(version=2), "version 2"),
        (text_with(version=True), "version True"),
        (text_with(points=[]), "0 points"),
        (text_with(points=[[1.0, 0.5]] * 1001), "1001 points"),
        (text_with(points=[[1.0, 0.5], [1.0, 0.5]]), "does not fall"),
        (text_with(points=[[1.0, 1.5]]), "outside 0...1"),
        (text_with(points=[[1.0, -0.1]]), "outside 0...1"),
        (text_with(points=[[0.0, 0.5]]), "sigma 0.0 is outside"),
        (text_with(points=[[2e6, 0.5]]), "sigma 2000000.0 is outside"),
        (text_with(points=[[1.0]]), "expected two numbers"),
        (text_with(points=[["1", 0.5]]), "expected two numbers"),
        (text_with(points=[[1.0, True]]), "expected two numbers"),
        (text_with(points={"1": 0.5}), "must be a list"),
        (text_with(points=[[1.0, 0.5]]).replace("0.5", "NaN"), "not valid JSON"),
        (text_with(points=[[1.0, 0.5]]).replace("0.5", "1e999"), "outside 0...1"),
        (text_with(points=[[1.0, 0.5]]).replace("0.5", "9" * 400), "not valid JSON"),
        (text_with(forecast={"onset": 2.0}), "onset 2.0 is outside"),
        (text_with(forecast={"reach": "0"}), "reach '0' is outside"),
        (text_with(forecast={"surprise": 1}), "must be an object with no other entries"),
        (text_with(forecast=[]), "must be an object with no other entries"),
        (text_with(name="../../etc/passwd"), "not a usable schedule name"),
        (text_with(name=""), "not a usable schedule name"),
        (text_with(name=None), "not a usable schedule name"),
        (text_with(mode="Clever one"), "mode 'Clever one'"),
        (text_with(family="Wan/2"), "family"),
        (text_with(mean_budget=0.9), "does not match the points"),
        (text_with(surprise=1), "unknown entries 'surprise'"),
        (text_with(provenance=[]), "must be an object"),
        (text_with(provenance={"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {}}}}}}}}}}), "nested too deeply"),
        ("[" * 100_000, "not valid JSON"),
        (" " * 300_000, "larger than"),
    ],
)
def test_bad_text_is_refused_with_the_reason(text, message):
    with pytest.raises(ScheduleError, match=message):
        parse(text)


def test_forecast_settings_survive_a_file(tmp_path):
    made = replace(SHAPES["0 1"], forecast=Forecast(0.05, 1.5, 0.5, 2.0))
    assert load(save(made, tmp_path)).forecast == made.forecast
    assert '"forecast"' not in serialise(SHAPES["0 1"])


def test_forecast_settings_of_former_files_are_ignored():
    former = {"expected": 0.5, "along": "root", "corrected_along": "root", "bend": 0.0, "last_response": 0.35}
    assert parse(text_with(forecast=former)).forecast == DEFAULT_FORECAST
    assert parse(text_with(forecast={**former, "reach": 3.0})).forecast == Forecast(reach=3.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"onset": 0.0}, "onset"),
        ({"onset": True}, "onset"),
        ({"reach": 100}, "reach"),
        ({"reach": "far"}, "reach"),
        ({"response": -0.1}, "response"),
        ({"swing": float("nan")}, "swing"),
    ],
)
def test_forecast_settings_out_of_bounds_are_refused(settings, message):
    with pytest.raises(ScheduleError, match=message):
        Forecast(**settings)


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ScheduleError, match="cannot be read"):
        load(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScheduleError, match="not UTF-8"):
        load(tmp_path / "binary.json")


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..", ".hidden", "a\n", "x" * 81, "a.", "CON:"])
def test_names_that_could_become_paths_are_refused(name):
    with pytest.raises(ScheduleError, match="not a usable schedule name"):
        Schedule(name, ((1.0, 0.5),))


def test_schedule_is_immutable():
    schedule = Schedule("a", ((1.0, 0.5),), provenance={"how": "by hand"})
    with pytest.raises(AttributeError):
        schedule.name = "b"
    with pytest.raises(TypeError):
        schedule.provenance["how"] = "searched"


@SHAPE
def test_own_grid_gives_own_budgets(shape):
    assert budgets_for(shape, grid(30)) == list(shape.budgets)


def assert_as_many_whole_steps_as_fit(schedule, sigmas, calls, mean):
    budgets = budgets_for(schedule, sigmas, calls_per_step=calls, mean=mean)
    spent = sum(b * c for b, c in zip(budgets, calls, strict=True))
    assert set(budgets) <= {0.0, 1.0}
    assert mean * sum(calls) - max(calls) < spent <= mean * sum(calls) * 1.005


@pytest.mark.parametrize("mean", [None, 0.4])
def test_own_steps_too_begin_with_a_full_one_within_the_budget(mean):
    """The first call has nothing to reuse and runs in full anyway: the budget must pay for it."""
    schedule = Schedule("even", tuple((sigma, 0.4) for sigma in GRID))
    budgets = budgets_for(schedule, grid(30), mean=mean)
    assert budgets[0] == 1.0
    assert budgets[-1] >= 0.5
    assert sum(budgets) / 30 == pytest.approx(0.4, rel=0.01)


@pytest.mark.parametrize("mean", [0.5, 0.3, 0.25])
@pytest.mark.parametrize(("head", "tail"), [(4, 1), (1, 4), (6, 6)])
def test_full_ends_give_way_to_the_budget(head, tail, mean):
    schedule = warped_skip("ends", 0.6, GRID, full_start=head, full_end=tail)
    for steps in (*range(8, 21), 25, 30, 37, 50):
        assert_as_many_whole_steps_as_fit(schedule, grid(steps), [1] * steps, mean)


def test_a_last_step_that_must_be_computed_takes_the_place_of_another():
    schedule = Schedule("first two", tuple(zip(flow_sigmas(4), (1.0, 1.0, 0.0, 0.0), strict=True)))
    assert budgets_for(schedule, grid(4)) == [1.0, 0.0, 0.0, 1.0]


@SHAPE
@pytest.mark.parametrize("mean", [0.7, 0.5, 0.4, 0.3])
def test_mean_budget_is_kept_on_any_grid(shape, mean):
    """Token steps come to it, whole steps stay whole and come to as much of it as they can."""
    for steps in (8, 9, 13, 20, 21, 30, 50) if shape.has_partial_steps else (8, 9, 13, 20, 30):
        for shift in (8.0, 1.0):
            for calls in ([1] * steps, [1] + [2] * (steps - 1), [2] * (steps - 1) + [1], [3] * steps):
                if not shape.has_partial_steps:
                    assert_as_many_whole_steps_as_fit(shape, grid(steps, shift), calls, mean)
                    continue
                budgets = budgets_for(shape, grid(steps, shift), calls_per_step=calls, mean=mean)
                kept = sum(b * c for b, c in zip(budgets, calls, strict=True)) / sum(calls)
                assert kept == pytest.approx(mean, rel=0.01), (steps, shift, calls[:2])
                assert all(0.0 <= b <= 1.0 for b in budgets)
                assert budgets[0] == 1.0
                assert budgets[-1] >= 0.5


def test_uniform_stays_uniform():
    budgets = budgets_for(SHAPES["uniform"], grid(20), mean=0.5)
    assert max(budgets[1:-1]) - min(budgets[1:-1]) < 1e-9


def test_whole_step_schedule_needs_no_store_where_the_step_count_allows():
    budgets = budgets_for(SHAPES["0 0 1"], grid(50), mean=0.4)
    assert set(budgets) == {0.0, 1.0}
    assert sum(budgets) == 20.0


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_very_short_runs_are_never_below_what_they_need(steps):
    budgets = budgets_for(SHAPES["0 0 1"], grid(steps), mean=0.3)
    assert budgets[0] == 1.0
    assert budgets[-1] >= 0.5
    assert len(budgets) == steps


def test_no_steps_no_budgets():
    assert budgets_for(SHAPES["0 1"], [1.0]) == []
    assert budgets_for(SHAPES["0 1"], []) == []


def test_without_fractions_keeps_the_mean_within_a_step():
    for mean in (0.7, 0.5, 0.4, 0.3):
        budgets = budgets_for(SHAPES["uniform"], grid(30), mean=mean)
        whole = without_partial_steps(budgets, [1] * 30)
        assert set(whole) == {0.0, 1.0}
        assert whole[0] == whole[-1] == 1.0
        assert -1.5 <= sum(whole) - sum(budgets) <= 0.5


def test_whole_steps_have_the_period_asked_for():
    assert list(periodic("w", [0.0, 0.0, 0.0, 1.0], GRID).budgets[3:7]) == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("warp", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("budget", [0.7, 0.5, 0.4, 0.3])
def test_leaning_schedule_meets_its_budget_and_leans(budget, warp):
    budgets = warped_skip("l", budget, GRID, warp=warp).budgets
    assert set(budgets) <= {0.0, 1.0}
    assert sum(budgets) == round(budget * 30)
    assert budgets[0] == budgets[-1] == 1.0
    late, early = sum(budgets[15:-1]), sum(budgets[1:15])
    assert late >= early if warp else abs(late - early) <= 1


@pytest.mark.parametrize(("start", "end"), [(1, 4), (3, 1), (2, 3)])
def test_leaning_schedule_begins_and_ends_with_full_steps(start, end):
    budgets = warped_skip("l", 0.4, GRID, warp=0.0, full_start=start, full_end=end).budgets
    assert sum(budgets) == 12
    assert budgets[:start] == (1.0,) * start
    assert budgets[-end:] == (1.0,) * end
    assert budgets[start] == budgets[-end - 1] == 0.0
