"""Which schedule is taken for a budget, and for a run of how many steps."""

from __future__ import annotations

import pytest

from astraea.engine.plan import make_plan
from astraea.engine.run import Run
from astraea.schedules import Forecast, Schedule, flow_sigmas, leaning, pick, pick_by_steps, save


def made(name: str, steps: int, mean: float, budget: float | None = None, **more) -> Schedule:
    points = leaning(name, mean, flow_sigmas(steps)).points
    return Schedule(name, points, "wan", provenance={} if budget is None else {"budget": budget}, **more)


@pytest.fixture
def folder(tmp_path):
    for schedule in (
        made("half 30", 30, 0.5, 0.5),
        made("half 12", 12, 0.5, 0.5, forecast=Forecast(0.25)),
        made("third 30", 30, 0.3, 0.3),
        made("third 8", 8, 0.25, 0.3, mode="hold"),
        made("quarter 30", 30, 0.25),
    ):
        save(schedule, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("budget", "steps", "name"),
    [
        (0.5, 30, "half 30"),
        (0.5, 12, "half 12"),
        (0.5, 40, "half 30"),
        (0.3, 8, "third 8"),
        (0.3, 30, "third 30"),
        (0.25, 8, "quarter 30"),  # one of 8 steps that spends a quarter was made for more
        (0.45, 14, "half 12"),
    ],
)
def test_the_budget_comes_first_then_the_steps(folder, budget, steps, name):
    assert pick(budget, "wan", [folder], steps).name == name


def test_every_number_of_steps_has_its_schedule(folder):
    names = {steps: schedule.name for steps, schedule in pick_by_steps(0.3, "wan", iter([folder])).items()}
    assert names == {8: "third 8", 30: "third 30"}


@pytest.mark.parametrize(("steps", "name", "expected"), [(30, "half 30", 0.0), (10, "half 12", 0.25)])
def test_a_run_takes_the_schedule_made_for_its_steps(folder, steps, name, expected):
    by_steps = pick_by_steps(0.5, "wan", [folder])
    plan = make_plan(by_steps[30], budget=0.5, choice="auto: 'half 30'", others=[by_steps[12]])
    run = Run(plan, [*flow_sigmas(steps), 0.0])
    assert run.report.schedule == name
    assert run.plan.schedule.forecast.expected == expected
    assert (name in run.report.choice) or steps == 30


def test_the_mode_goes_with_the_schedule_unless_another_was_asked_for(folder):
    by_steps = pick_by_steps(0.3, "wan", [folder])
    sigmas = [*flow_sigmas(8), 0.0]
    assert Run(make_plan(by_steps[30], others=[by_steps[8]]), sigmas).plan.mode.name == "hold"
    assert Run(make_plan(by_steps[30], mode="refit", others=[by_steps[8]]), sigmas).plan.mode.name == "refit"
