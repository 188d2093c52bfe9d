"""Bundled schedules: valid, different from each other, picked for every family; broken files are passed over."""

from __future__ import annotations

import math

import pytest

from astraea.errors import ScheduleError
from astraea.schedules import FORMER_NAMES, Schedule, bundled_folder, list_schedules, load, load_schedules, pick, save

BUNDLED = pytest.mark.parametrize("path", list_schedules(bundled_folder()).values(), ids=lambda path: path.stem)


@BUNDLED
def test_bundled_schedules_are_valid_and_say_how_they_were_found(path):
    schedule = load(path)
    assert schedule.name == path.stem
    for key in ("found", "on", "figures"):
        assert schedule.provenance.get(key), f"{path.name} does not say {key}"


@pytest.mark.parametrize("budget", [0.7, 0.5, 0.4, 0.25])
@pytest.mark.parametrize("family", ["wan", "some-other-family"])
def test_a_bundled_schedule_is_picked_for_every_family_at_the_nearest_budget(budget, family):
    assert math.isclose(pick(budget, family).mean_budget, budget, abs_tol=0.02)


def test_former_names_of_bundled_schedules_lead_to_bundled_ones():
    names = set(list_schedules(bundled_folder()))
    assert set(FORMER_NAMES.values()) <= names
    assert not set(FORMER_NAMES) & names


def test_no_two_bundled_schedules_are_the_same():
    contents = [(each.points, each.mode, each.forecast) for each in load_schedules([bundled_folder()])]
    assert len(set(contents)) == len(contents) == 23


def test_auto_passes_over_broken_files(tmp_path):
    save(Schedule("good", ((1.0, 0.5),)), tmp_path)
    (tmp_path / "broken.json").write_text("{")
    assert pick(0.5, "wan", load_schedules([tmp_path])).name == "good"
    with pytest.raises(ScheduleError, match="No schedule"):
        pick(0.5, "wan", load_schedules([tmp_path / "absent"]))
