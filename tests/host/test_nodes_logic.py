"""What stands behind the nodes' sockets: choosing a plan, writing and drawing a report, showing latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.latent_formats
import numpy as np
import pytest
import torch

from astraea.engine.planning.plan import Plan
from astraea.engine.planning.resolve import RunFacts, RunSettings, resolve
from astraea.engine.report import KINDS, CallRecord, Report
from astraea.engine.sampler.profile import SamplerProfile
from astraea.engine.sparse.figures import SparseFigures
from astraea.errors import AstraeaError
from astraea.host import folders
from astraea.host.latents import model_space, preview_rgb
from astraea.nodes.accelerate import AstraeaAccelerate
from astraea.nodes.accelerate_inputs import FORMER_MODES, MODE_CHOICES, AccelerateInputs, choose_plan
from astraea.nodes.demo import AstraeaDemoPrompt, AstraeaDemoView
from astraea.nodes.plots.run_report import draw_report
from astraea.nodes.report import NO_NODE, AstraeaReport
from astraea.nodes.report_text import report_text, step_rows
from astraea.nodes.schedules import AstraeaScheduleInline, AstraeaScheduleLoad, AstraeaScheduleSave
from astraea.nodes.search import AstraeaSearch
from astraea.schedules import flow_sigmas, periodic, save, uniform
from astraea.tiny.codec import encode
from astraea.tiny.training.clips import draw_batch


class FakeModel:
    """A MODEL of which only is asked what it is."""

    def get_model_object(self, name: str) -> Any:
        return torch.nn.Linear(1, 1)


def settings_for(plan: Plan, steps: int) -> RunSettings:
    """The settings of an Euler run of so many steps."""
    return resolve(plan, RunFacts(SamplerProfile.of([*flow_sigmas(steps), 0.0]), family="wan"))


SCHEDULE = replace(periodic("given", [0.0, 0.3, 0.8], flow_sigmas(30)), mode="hold")


@pytest.mark.parametrize("mode", [*MODE_CHOICES, *FORMER_MODES])
def test_a_linked_schedule_keeps_its_mean_in_every_mode(mode: str) -> None:
    settings = settings_for(choose_plan(AccelerateInputs(SCHEDULE, 0.9, mode=mode)), 30)
    assert settings.asked_budget == pytest.approx(SCHEDULE.mean_budget)
    known = FORMER_MODES.get(mode, mode)
    assert settings.mode.name == {"token steps": "default", "paper": "paper"}.get(known, "hold")
    assert (set(settings.budgets) == {0.0, 1.0}) == (known == "whole steps")


@pytest.mark.parametrize("mode", MODE_CHOICES)
def test_without_a_schedule_the_mode_says_which_steps(mode: str) -> None:
    settings = settings_for(choose_plan(AccelerateInputs("auto", 0.5, mode=mode)), 20)
    partial = [budget for budget in settings.budgets if 0.0 < budget < 1.0]
    assert bool(partial) == (mode in ("token steps", "paper"))
    assert sum(settings.budgets) == pytest.approx(10.0, abs=0.1)
    assert settings.mode.name == ("paper" if mode == "paper" else "default")


def test_whole_steps_pass_over_saved_token_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved = replace(uniform("tokens", 0.5, flow_sigmas(20)), family="wan", provenance={"budget": 0.5})
    save(saved, tmp_path)
    monkeypatch.setattr("astraea.nodes.accelerate_inputs.user_schedule_folder", lambda: tmp_path)
    for mode, name in (("auto", "tokens"), ("whole steps", "auto")):
        assert settings_for(choose_plan(AccelerateInputs("auto", 0.5, mode=mode)), 20).schedule.name == name


def test_a_target_takes_the_place_of_the_budget() -> None:
    plan = choose_plan(AccelerateInputs(SCHEDULE, 0.4, target_speedup=2.0))
    assert (plan.budget, plan.target_speedup) == (None, 2.0)


def test_auto_never_fails_for_a_model_that_passes_through() -> None:
    assert choose_plan(AccelerateInputs("auto", 0.4)).budget == 0.4


def test_auto_says_what_it_chose_and_why() -> None:
    def choice(budget: float, schedule: Any = "auto", **inputs: Any) -> str:
        return settings_for(choose_plan(AccelerateInputs(schedule, budget, **inputs)), 30).choice

    assert choice(0.4).startswith("auto: whole steps, placed where they leave the least expected error;")
    assert "a few latents per conditioning" in choice(0.4)
    assert choice(0.4, target_speedup=2.5) == choice(0.4)
    assert choice(0.4, SCHEDULE) == ""
    assert choice(0.4, mode="paper") == ""
    assert "Chosen by" in report_text(Report(choice=choice(0.4)))


@pytest.mark.parametrize("budget", [0.25, 0.3, 0.43, 0.5])
@pytest.mark.parametrize("steps", [12, 20, 30])
def test_auto_plans_as_many_whole_steps_as_the_budget_allows_or_says_why_not(budget: float, steps: int) -> None:
    settings = settings_for(choose_plan(AccelerateInputs("auto", budget)), steps)
    assert set(settings.budgets) == {0.0, 1.0}
    allowed = int(budget * steps + 1e-6)
    assert allowed <= sum(settings.budgets) <= max(4, allowed)
    says_why = any("with fewer, this run would give another clip" in note for note in settings.notes)
    assert says_why is (sum(settings.budgets) > allowed)


def two_calls_a_step() -> Report:
    report = Report(schedule="s", mode="default", family="wan", steps=3, finished=True)
    for step, (kind, computed) in enumerate((("full", 100), ("token", 40), ("reuse", 0))):
        for seconds in (0.1, 0.3):
            call = CallRecord(step, 1.0 - step / 3, computed / 100, kind, computed, 100, seconds + computed / 100)
            report.calls.append(call)
    report.calls[2] = CallRecord(1, 2 / 3, 0.4, "full", 100, 100, 1.2, "nothing kept yet")
    return report


def test_a_step_of_several_calls_is_one_row() -> None:
    rows = step_rows(two_calls_a_step())
    assert [(row.kind, row.calls) for row in rows] == [("full", 2), ("full", 2), ("reuse", 2)]
    assert [row.share for row in rows] == pytest.approx([1.0, 0.7, 0.0])
    assert rows[1].reason == "nothing kept yet"
    assert rows[0].seconds == pytest.approx(1.2)


def test_any_report_can_be_read_and_drawn() -> None:
    passed_through = Report(schedule="s", notes=["passed through: it is a lamp"])
    stopped = two_calls_a_step()
    stopped.finished = False
    del stopped.calls[3:]
    for report in (Report(), passed_through, stopped, two_calls_a_step()):
        picture = draw_report(report)
        assert picture.width == 1040
        assert 100 < picture.height < 1400
    assert "it is a lamp" in report_text(passed_through)
    assert "early, by an interrupt or an error" in report_text(stopped)


def test_without_a_report_the_node_is_bypassed_and_that_is_said() -> None:
    output = AstraeaReport.execute({"samples": torch.zeros(1)})
    assert output.args[0] == output.ui["text"][0] == NO_NODE
    assert output.args[1].shape[-1] == 3


def test_sparse_attention_of_values_that_are_not_finite_is_drawn() -> None:
    figures = SparseFigures(layers={0}, sparse_layers={0}, steps=1, sparse_steps={0}, calls=1)
    figures.add_error(0, 0, float("nan"))
    report = Report(sparse=figures.as_dict(), notes=figures.notes(), finished=True)
    assert draw_report(report).height > 100
    assert "not finite" in report_text(report)


@pytest.mark.parametrize("name", ["found-0.50 (1)", "süß", "日本語", "50%", "x" * 90])
def test_a_schedule_file_can_be_chosen_whatever_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(folders, "user_schedule_folder", lambda: tmp_path)
    saved = save(uniform("found-0.50", 0.5, flow_sigmas(8)), tmp_path)
    (tmp_path / f"{name}.json").write_bytes(b"\xef\xbb\xbf" + saved.read_bytes())  # as some editors write it
    (tmp_path / "auto.json").write_bytes(saved.read_bytes())
    assert sorted(folders.schedule_names()) == sorted(["found-0.50", name])
    assert folders.find_schedule(name).points == folders.find_schedule("found-0.50").points


def test_legends_of_four_kinds_fit_into_the_picture() -> None:
    def report_of(*kinds: str) -> Report:
        calls = [CallRecord(step, 0.5, 0.5, kinds[step % len(kinds)], 50, 100, 0.1) for step in range(200)]
        return Report(steps=200, calls=calls, finished=True)

    heights = [draw_report(report_of(*KINDS[:count])).height for count in (3, 4)]
    assert heights[1] > heights[0]  # the fourth is in a line of its own


def test_the_demo_view_makes_frames_of_latents() -> None:
    latents = comfy.latent_formats.Wan21().process_out(torch.randn(2, 16, 3, 4, 6))
    frames = AstraeaDemoView.execute({"samples": latents}).args[0]
    assert frames.shape == (2 * 9, 64, 96, 3)
    assert 0.0 <= float(frames.min()) < float(frames.max()) <= 1.0


def test_latents_of_wan_are_read_as_the_host_reads_them() -> None:
    clip, _ = draw_batch(1, 1, 3, 32, 32)
    assert torch.allclose(model_space(comfy.latent_formats.Wan21().process_out(encode(clip))), encode(clip), atol=1e-4)


@pytest.mark.parametrize(
    "shape", [(1, 16, 3, 8, 8), (2, 48, 2, 8, 8), (1, 128, 2, 8, 8), (1, 7, 2, 8, 8), (2, 4, 8, 8)]
)
def test_any_latent_has_a_preview(shape: tuple[int, ...]) -> None:
    rgb = preview_rgb(torch.randn(shape))
    frames = shape[0] * (shape[2] if len(shape) == 5 else 1)
    assert rgb.shape == (frames, 8, 8, 3)
    assert 0.0 <= float(rgb.min()) <= float(rgb.max()) <= 1.0


SEARCHED = {
    "model": None,
    "positive": None,
    "negative": None,
    "latent": None,
    "steps": 8,
    "cfg": 1.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "first_seed": 1,
    "budgets": "0.5",
    "effort": "quick (10 clips)",
    "cases": 2,
    "name": "mine",
}
ACCELERATED = {"model": FakeModel(), "schedule": "auto", "budget": 0.4, "target_speedup": 0.0}
# What no link of the right type gives, but one of any type may.
NO_NUMBER = ["abc", "0.4", None, True, float("nan"), float("inf"), -float("inf"), -5.0, 10**400, [1.0], torch.ones(())]
NO_TEXT = [None, 3, 0.5, True, ["euler"], b"mine"]
LINKED = {
    "budget": ("a number from 0.1 to 1", NO_NUMBER),
    "target_speedup": ("a number from 0 to 10", [*NO_NUMBER, 10.5]),
    "mode": ("one of auto, whole steps, token steps, paper", [*NO_TEXT, "magic"]),
    "cache": ("one of auto, full", [*NO_TEXT, "magic"]),
    "attention": ("one of auto, host", [*NO_TEXT, "magic"]),
    "schedule": ("text", [None, 3, True]),
    "astraea_schedule": ("a schedule from Astraea Schedule Load", [3, "auto", [SCHEDULE]]),
    "steps": ("a whole number from 2 to 1000", [*NO_NUMBER, 8.5, 1, 1001]),
    "cfg": ("a number from 0 to 100", [*NO_NUMBER, 100.5]),
    "first_seed": ("a whole number from 0 to 18446744073709551615", [*NO_NUMBER, 0.5, -1, 2**64]),
    "cases": ("a whole number from 1 to 16", [*NO_NUMBER, 0, 17, 1.5]),
    "sampler_name": ("one of euler", [*NO_TEXT, "magic"]),
    "scheduler": ("one of", [*NO_TEXT, "magic"]),
    "effort": ("one of instant", [*NO_TEXT, "magic"]),
    "budgets": ("text", NO_TEXT),
    "name": ("text", NO_TEXT),
}


@pytest.mark.parametrize("name", LINKED)
def test_a_linked_value_that_cannot_work_is_named_with_its_range(name: str) -> None:
    takes, values = LINKED[name]
    for value in values:
        node, inputs = (AstraeaSearch, SEARCHED) if name in SEARCHED else (AstraeaAccelerate, ACCELERATED)
        with pytest.raises(AstraeaError) as told:
            node.execute(**(inputs | {name: value}))
        assert str(told.value).startswith(f"The input '{name}' takes {takes}")
        assert len(str(told.value)) < 600


@pytest.mark.parametrize(("node", "inputs"), [
    (AstraeaDemoPrompt, {"text": 3}),
    (AstraeaScheduleLoad, {"schedule_name": 3}),
    (AstraeaScheduleInline, {"schedule_json": None}),
    (AstraeaScheduleSave, {"schedule": "auto", "name": "n", "overwrite": False}),
    (AstraeaScheduleSave, {"schedule": SCHEDULE, "name": 3, "overwrite": False}),
    (AstraeaScheduleSave, {"schedule": SCHEDULE, "name": "n", "overwrite": "no"}),
])  # fmt: skip
def test_the_other_nodes_name_the_input_too(node: Any, inputs: dict[str, Any]) -> None:
    with pytest.raises(
        AstraeaError, match=r"The input '(text|schedule|schedule_name|schedule_json|name|overwrite)' takes"
    ):
        node.execute(**inputs)


def test_numbers_of_numpy_are_numbers() -> None:
    plan = choose_plan(AccelerateInputs(SCHEDULE, np.float32(0.5), np.float64(2.0)))
    assert plan.target_speedup == 2.0
    assert type(plan.target_speedup) is float
    assert choose_plan(AccelerateInputs("auto", 1)).budget == 1.0


@pytest.mark.parametrize("target", [0.5, 0.99, 1e-9])
def test_a_target_between_nothing_and_one_is_refused(target: float) -> None:
    with pytest.raises(
        AstraeaError, match=rf"'target_speedup' takes 0, or 1 to 10, not {target:g}\. 2 means twice as fast"
    ):
        choose_plan(AccelerateInputs("auto", 0.4, target))
