"""A schedule's promise on its way to the user: the list's tooltip, the choice, the report and its plot."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG
from PIL import ImageChops
from sampling import accelerated, last, sample

from astraea.engine.report.data import ReportHandle
from astraea.host.folders import user_schedule_folder
from astraea.host.sampling.guiders import guidance_scale
from astraea.host.sampling.patch_model import accelerate
from astraea.nodes.accelerate import TIPS, AstraeaAccelerate
from astraea.nodes.accelerate_inputs import AccelerateInputs, choose_plan
from astraea.nodes.plots.run_report import draw_report
from astraea.nodes.report_text import report_text
from astraea.nodes.schedule_tooltips import MAX_LINES, schedule_tooltips
from astraea.schedules import Schedule, flow_sigmas, periodic, save

STEPS = 12
PROMISE = {
    "psnr_db": 48.123,
    "speedup": 2.4,
    "seconds": 3.2,
    "steps": STEPS,
    "device": "a card",
    "sampler": "euler",
    "cfg": 3.0,
}
TOLD = "promises 2.4x at 48.1 dB (12 steps, euler, cfg 3)"


def found_schedule(name: str = "found", **changes: object) -> Schedule:
    schedule = periodic(name, [0.0, 0.0, 1.0], flow_sigmas(STEPS))
    return replace(schedule, provenance={"promise": PROMISE | changes})


def save_at(folder: Path, schedule: Schedule, seconds: float) -> Path:
    """The file of a schedule that was last changed then."""
    path = save(schedule, folder, overwrite=True)
    os.utime(path, (seconds, seconds))
    return path


def test_a_run_tells_what_was_promised_beside_what_was_measured(load_tiny) -> None:
    fast, handle = accelerated(load_tiny(), found_schedule())
    sample(fast, steps=STEPS)
    report = last(handle)
    assert report.expected == PROMISE
    lines = report_text(report).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("Promised"))
    assert lines[at].split(maxsplit=1)[1] == (
        f"2.40x, 48.1 dB, 3.20 s in the model; measured {report.speedup:.2f}x, {report.model_seconds:.2f} s"
    )
    assert "for 12 steps, euler, cfg 3, a card; to measure" in lines[at + 1]
    assert "compare with a dense run: Astraea Compare" in lines[at + 1]
    silent = replace(report, expected=None)
    assert ImageChops.difference(draw_report(report), draw_report(silent)).getbbox() is not None


def test_a_run_of_other_steps_says_what_the_promise_is_for(load_tiny) -> None:
    fast, handle = accelerated(load_tiny(), found_schedule())
    sample(fast, steps=10)
    report = last(handle)
    assert report.expected is None
    assert "2.4x at 48.1 dB for 12 steps; this run has 10" in report_text(report)
    assert "measure the dB" not in report_text(report)


def test_with_stronger_guidance_than_it_was_found_for_nothing_is_promised(load_tiny) -> None:
    for cfg, trusted in ((3.0, True), (6.0, False)):
        fast, handle = accelerated(load_tiny(), found_schedule())
        sample(fast, steps=STEPS, cfg=cfg)
        report = last(handle)
        assert (report.expected is not None) == trusted
        assert ("for guidance 3; this run has 6" in report_text(report)) != trusted


def test_a_run_at_another_budget_promises_nothing(load_tiny) -> None:
    fast, handle = accelerated(load_tiny(), found_schedule(), budget=0.7)
    sample(fast, steps=STEPS)
    assert "Promised" not in report_text(last(handle))


@pytest.mark.parametrize(("cfg", "name"), [(2.0, "mild"), (2.4, "mild"), (7.0, "strong"), (4.0, "auto")])
def test_auto_takes_the_schedule_for_the_guidance_of_the_run(load_tiny, monkeypatch, tmp_path, cfg, name) -> None:
    for found, guidance in (("mild", 2.0), ("strong", 8.0)):
        save(replace(found_schedule(found), family="wan", provenance={"guidance": guidance}), tmp_path)
    monkeypatch.setattr("astraea.nodes.accelerate_inputs.user_schedule_folder", lambda: tmp_path)
    handle = ReportHandle()
    fast = accelerate(load_tiny(), choose_plan(AccelerateInputs("auto", found_schedule().mean_budget)), handle)
    sample(fast, steps=STEPS, cfg=cfg)
    assert last(handle).schedule == name
    assert (f"'{name}' was saved for the budget" in last(handle).choice) == (name != "auto")


def test_guiders_tell_their_scale() -> None:
    model = SimpleNamespace(model_options={})
    basic, dual = Guider_Basic(model), Guider_DualCFG(model)
    dual.set_cfg(2.0, 5.0)
    assert (guidance_scale(basic), guidance_scale(dual), guidance_scale(object())) == (1.0, 5.0, None)


def test_auto_states_the_expected_result_of_a_schedule_at_its_own_mean(load_tiny, monkeypatch, tmp_path) -> None:
    schedule = replace(found_schedule(), family="wan")
    save(schedule, tmp_path)
    monkeypatch.setattr("astraea.nodes.accelerate_inputs.user_schedule_folder", lambda: tmp_path)
    mean = schedule.mean_budget
    for inputs, stated in (
        (AccelerateInputs("auto", mean), True),
        (AccelerateInputs("auto", mean + 0.2), False),
    ):
        handle = ReportHandle()
        sample(accelerate(load_tiny(), choose_plan(inputs), handle), steps=STEPS)
        assert ("2.40x, 48.1 dB" in report_text(last(handle))) == stated


def test_the_list_of_schedules_tells_what_saved_ones_promise() -> None:
    path = save(found_schedule("told in the list"), user_schedule_folder())
    try:
        inputs = {each.id: each for each in AstraeaAccelerate.define_schema().inputs}
        assert inputs["schedule"].tooltip.startswith(TIPS["schedule"])
        assert f"'told in the list' {TOLD}" in inputs["schedule"].tooltip.splitlines()
    finally:
        path.unlink()


def test_the_newest_promises_come_first_and_follow_their_files(tmp_path) -> None:
    assert schedule_tooltips(tmp_path / "missing") == []
    for number in range(MAX_LINES + 3):
        save_at(tmp_path, found_schedule(f"s{number}"), 1000.0 + number)
    save_at(tmp_path, replace(found_schedule("silent"), provenance={}), 5000.0)
    names = [line.split()[0] for line in schedule_tooltips(tmp_path)]
    assert names == [f"'s{MAX_LINES + 2 - number}'" for number in range(MAX_LINES)]
    save_at(tmp_path, found_schedule("s0", speedup=3.0), 6000.0)
    assert schedule_tooltips(tmp_path)[0].startswith("'s0' promises 3.0x")
    (tmp_path / "s0.json").unlink()
    assert schedule_tooltips(tmp_path)[0] == f"'s{MAX_LINES + 2}' {TOLD}"


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"{}", b"[" * 100_000, b"x" * 300_000],
    ids=["empty", "no text", "no schedule", "deep", "large"],
)
def test_a_file_that_cannot_be_read_is_passed_over(tmp_path, content: bytes) -> None:
    save(found_schedule(), tmp_path)
    (tmp_path / "broken.json").write_bytes(content)
    (tmp_path / "folder.json").mkdir()
    assert schedule_tooltips(tmp_path) == [f"'found' {TOLD}"]


def test_numbers_beyond_any_float_are_passed_over(tmp_path) -> None:
    path = save(found_schedule(), tmp_path)
    text = path.read_text("utf-8")
    (tmp_path / "huge.json").write_text(text.replace("48.123", "9" * 400).replace("found", "huge"), "utf-8")
    (tmp_path / "huge points.json").write_text(text.replace("[1.0, 1.0]", f"[{'9' * 400}, 1.0]"), "utf-8")
    assert schedule_tooltips(tmp_path) == [f"'found' {TOLD}"]
