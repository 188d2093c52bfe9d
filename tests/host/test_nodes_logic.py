"""What stands behind the nodes' sockets: choosing a plan, writing and drawing a report, showing latents."""

from __future__ import annotations

import comfy.latent_formats
import pytest
import torch

from astraea.engine.report import CallRecord, Report
from astraea.errors import BudgetError
from astraea.host.latents import model_space, preview_rgb
from astraea.nodes.choice import MODE_CHOICES, OWN_MODE, Wish, check_numbers, choose_plan
from astraea.nodes.compare import AstraeaCompare
from astraea.nodes.demo import AstraeaDemoView
from astraea.nodes.plot import draw_report
from astraea.nodes.report_text import report_text, step_rows
from astraea.schedules import budgets_for, flow_sigmas, rhythm
from astraea.tiny.clips import draw_batch
from astraea.tiny.codec import encode

SCHEDULE = rhythm("given", [0.0, 0.3, 0.8], flow_sigmas(30), mode="hold")


@pytest.mark.parametrize("mode", MODE_CHOICES)
def test_a_linked_schedule_keeps_its_mean_in_every_mode(mode: str) -> None:
    plan = choose_plan(Wish(SCHEDULE, 0.9, mode=mode), "wan")
    mean = plan.schedule.mean_budget if plan.budget is None else plan.budget
    assert mean == pytest.approx(SCHEDULE.mean_budget)
    assert plan.mode.name == {OWN_MODE: "hold", "whole-step hold": "hold"}.get(mode, plan.mode.name)


@pytest.mark.parametrize("mode", ["whole-step hold", "whole-step forecast"])
def test_whole_step_controls_hold_whole_steps_only(mode: str) -> None:
    plan = choose_plan(Wish(SCHEDULE, 0.4, mode=mode), "wan")
    assert set(plan.schedule.budgets) == {0.0, 1.0}
    assert plan.cache.ladder() == ("none",)


def test_a_target_takes_the_place_of_the_budget() -> None:
    plan = choose_plan(Wish(SCHEDULE, 0.4, target_speedup=2.0), "wan")
    assert (plan.budget, plan.target_speedup) == (None, 2.0)


def test_auto_never_fails_for_a_model_that_passes_through() -> None:
    assert choose_plan(Wish("auto", 0.4), "any").budget == 0.4


def test_auto_says_what_it_chose_and_why() -> None:
    exact, between = (choose_plan(Wish("auto", budget), "wan").choice for budget in (0.4, 0.44))
    assert "'wan-0.40' is nearest to the budget;" in exact
    assert "two latents per conditioning" in exact
    assert "brought from a mean of 40% to 44%" in between
    assert "the target of 2.5x" in choose_plan(Wish("auto", 0.4, target_speedup=2.5), "wan").choice
    assert choose_plan(Wish(SCHEDULE, 0.4), "wan").choice == ""
    assert choose_plan(Wish("auto", 0.4, mode="paper"), "wan").choice == ""
    assert "Chosen by" in report_text(Report(choice=exact))


@pytest.mark.parametrize(("budget", "target"), [(0.1, 0.0), (1.1, 0.0), (float("nan"), 0.0), (0.4, 0.9), (0.4, 9.0)])
def test_numbers_out_of_range_are_refused(budget: float, target: float) -> None:
    with pytest.raises(BudgetError, match="outside"):
        check_numbers(budget, target)


@pytest.mark.parametrize("budget", [0.25, 0.3, 0.43, 0.5])
@pytest.mark.parametrize("steps", [12, 20, 30])
def test_auto_never_plans_more_whole_steps_than_the_budget_pays_for(budget: float, steps: int) -> None:
    plan = choose_plan(Wish("auto", budget), "wan")
    budgets = budgets_for(plan.schedule, [*flow_sigmas(steps), 0.0], mean=plan.budget)
    assert set(budgets) == {0.0, 1.0}
    assert sum(budgets) == int(budget * steps + 1e-6)


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
    passed_through = Report(schedule="s", notes=["the model passes through unchanged: it is a lamp"])
    stopped = two_calls_a_step()
    stopped.finished = False
    del stopped.calls[3:]
    for report in (Report(), passed_through, stopped, two_calls_a_step()):
        assert draw_report(report).size == (1520, 800)
    assert "it is a lamp" in report_text(passed_through)
    assert "early, by an interrupt or an error" in report_text(stopped)


def test_the_demo_view_shows_the_clip_that_was_encoded() -> None:
    clip, _ = draw_batch(1, 1, 3, 32, 32)
    latents = comfy.latent_formats.Wan21().process_out(encode(clip))
    frames = AstraeaDemoView.execute({"samples": latents}, scale=2).args[0]
    assert frames.shape == (3, 64, 64, 3)
    assert (frames[:, ::2, ::2].movedim(-1, 1) - clip[0]).abs().max() < 1e-3
    assert torch.allclose(model_space(latents), encode(clip), atol=1e-4)


@pytest.mark.parametrize(
    "shape", [(1, 16, 3, 8, 8), (2, 48, 2, 8, 8), (1, 128, 2, 8, 8), (1, 7, 2, 8, 8), (2, 4, 8, 8)]
)
def test_any_latent_has_a_preview(shape: tuple[int, ...]) -> None:
    rgb = preview_rgb(torch.randn(shape))
    frames = shape[0] * (shape[2] if len(shape) == 5 else 1)
    assert rgb.shape == (frames, 8, 8, 3)
    assert 0.0 <= float(rgb.min()) <= float(rgb.max()) <= 1.0


def test_compare_tells_equal_from_close() -> None:
    images = torch.rand(2, 24, 24, 3, generator=torch.Generator().manual_seed(0))
    text, view = AstraeaCompare.execute(images_a=images, images_b=images).args
    assert text == "Identical (2 frames, peak 1)."
    assert view.shape == (2, 24, 52, 3)
    latents = {"samples": torch.randn(1, 16, 3, 8, 8)}
    close = {"samples": latents["samples"] + 0.01}
    assert AstraeaCompare.execute(latents_a=latents, latents_b=close).args[0].startswith("PSNR ")
