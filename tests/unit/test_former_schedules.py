"""Names of schedules that once shipped with the pack still lead somewhere; broken files are passed over."""

from __future__ import annotations

import pytest

from astraea.engine.planning.plan import make_plan
from astraea.engine.run import Run
from astraea.errors import ScheduleError
from astraea.schedules import Schedule, flow_sigmas, former_schedule, load_schedules, pick, save


@pytest.mark.parametrize(
    ("name", "budget"),
    [("any-0.50", 0.5), ("wan-0.70", 0.7), ("any-0.25-8-steps-cfg-3", 0.25), ("any-0.40-30-steps-cfg-6", 0.4)],
)
@pytest.mark.parametrize("steps", [8, 20, 30, 50])
def test_a_former_name_means_whole_steps_at_its_budget(name, budget, steps):
    schedule = former_schedule(name)
    assert schedule is not None
    assert schedule.name == name
    run = Run.of(make_plan(schedule), [*flow_sigmas(steps, 5.0), 0.0])
    assert set(run.budgets) == {0.0, 1.0}
    assert abs(sum(run.budgets) - budget * steps) <= 0.5


@pytest.mark.parametrize("name", ["any", "any-0.5", "mine-0.50", "any-0.50-steps", "any-0.50\n", "any-1.50"])
def test_other_names_mean_nothing(name):
    assert former_schedule(name) is None


def test_auto_passes_over_broken_files(tmp_path):
    save(Schedule("good", ((1.0, 0.5),)), tmp_path)
    (tmp_path / "broken.json").write_text("{")
    assert pick(0.5, "wan", load_schedules([tmp_path])).name == "good"
    with pytest.raises(ScheduleError, match="No schedule"):
        pick(0.5, "wan", load_schedules([tmp_path / "absent"]))
