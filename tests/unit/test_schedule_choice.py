"""Which schedule is taken for a budget, and for a run of how many steps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from astraea.engine.planning.plan import make_plan
from astraea.engine.run import Run
from astraea.engine.sampler.profile import SamplerProfile
from astraea.schedules import (
    DEFAULT_FORECAST,
    Forecast,
    Schedule,
    equivalent_steps,
    flow_sigmas,
    former_schedule,
    guidance_of,
    load_schedules,
    pick,
    save,
    usual_forecast,
    warped_skip,
    whole_steps,
)


def made(name: str, steps: int, mean: float, budget: float | None = None, *, way=None, **told) -> Schedule:
    points = warped_skip(name, mean, flow_sigmas(steps)).points
    return Schedule(
        name, points, "wan", provenance=told if budget is None else {"budget": budget, **told}, **(way or {})
    )


@pytest.fixture
def folder(tmp_path):
    for schedule in (
        made("half 30", 30, 0.5, 0.5),
        made("half 12", 12, 0.5, 0.5, way={"forecast": Forecast(0.25)}),
        made("third 30", 30, 0.3, 0.3),
        made("third 8", 8, 0.25, 0.3, way={"mode": "hold"}),
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
    assert pick(budget, "wan", load_schedules([folder]), steps).name == name


def automatic(folder, budget: float, **settings):
    """A plan whose schedule is chosen for each run."""
    return make_plan(None, budget=budget, library=load_schedules([folder]), **settings)


def run_of(plan, sigmas, **facts) -> Run:
    return Run.of(plan, sigmas, family="wan", **facts)


@pytest.mark.parametrize(
    ("steps", "guidance", "name"),
    [
        (30, 6.0, "half 30"),
        (30, 3.0, "half 30 mild"),
        (30, 3.5, "half 30 mild"),
        (30, 1.0, "half 30"),  # the other one was made for another guidance
        (28, 5.0, "half 30"),
        (12, 3.0, "half 12"),
        (20, 6.0, "auto"),  # none was made for so many steps
    ],
)
def test_a_saved_schedule_is_taken_for_runs_like_its_own(folder, steps, guidance, name):
    save(made("half 30 mild", 30, 0.5, 0.5, guidance=3), folder)
    run = run_of(automatic(folder, 0.5), [*flow_sigmas(steps), 0.0], guidance=guidance)
    assert run.report.schedule == name


def test_the_guidance_is_what_the_file_says_or_what_was_promised_for():
    assert guidance_of(made("drawn", 30, 0.5)) == 6.0
    assert guidance_of(made("told", 30, 0.5, 0.5, guidance=3)) == 3.0
    assert guidance_of(made("found", 30, 0.5, 0.5, promise={"cfg": 4.5})) == 4.5
    assert guidance_of(made("odd", 30, 0.5, 0.5, guidance="strong", promise=[1])) == 6.0


@pytest.mark.parametrize(("steps", "name", "expected"), [(30, "half 30", 0.015), (12, "half 12", 0.25)])
def test_a_run_takes_the_schedule_made_for_its_steps(folder, steps, name, expected):
    run = run_of(automatic(folder, 0.5), [*flow_sigmas(steps), 0.0])
    assert run.report.schedule == name
    assert run.settings.schedule.forecast.onset == expected
    assert run.report.choice.startswith(f"auto: '{name}' was saved for the budget and runs like this one")


def test_the_mode_goes_with_the_schedule_unless_another_was_asked_for(folder):
    sigmas = [*flow_sigmas(8), 0.0]
    assert run_of(automatic(folder, 0.3), sigmas).context.mode.name == "hold"
    assert run_of(automatic(folder, 0.3, mode="refit"), sigmas).context.mode.name == "refit"


def test_a_schedule_of_a_mode_that_this_pack_does_not_know_is_passed_over(folder):
    save(made("half of later", 12, 0.5, 0.5, way={"mode": "later"}), folder)
    assert run_of(automatic(folder, 0.5), [*flow_sigmas(12), 0.0]).report.schedule == "half 12"


def in_part(name: str, budget: float) -> Schedule:
    """Twelve steps in part that take longer than their tokens, so that it computes less than its budget."""
    points = tuple(zip(flow_sigmas(12), (1.0, *[0.3] * 10, 0.5), strict=True))
    return Schedule(name, points, "wan", provenance={"budget": budget, "guidance": 3})


@pytest.mark.parametrize(("budget", "mean"), [(0.5, 0.375), (0.52, 0.52), (0.375, 0.375), (None, 0.375)])
def test_steps_in_part_are_as_many_as_their_budget_was_found_to_pay_for(budget, mean):
    run = Run.of(make_plan(in_part("partly", 0.5), budget=budget), [*flow_sigmas(12), 0.0])
    assert sum(run.budgets) / 12 == pytest.approx(mean, abs=0.005)
    assert run.report.asked_budget == pytest.approx(0.375 if budget is None else budget, abs=0.005)


@pytest.mark.parametrize("mean", [0.2, 0.3, 0.5])
def test_steps_are_placed_evenly_where_nothing_is_known_of_the_sampler(mean):
    sigmas = [*flow_sigmas(30), 0.0]
    run = run_of(make_plan(None, budget=mean), sigmas, profile=SamplerProfile.unknown(sigmas, "it is not known"))
    computed = [step for step, budget in enumerate(run.budgets) if budget]
    assert computed[:2] == [0, 1], "for samplers that use old predictions again"
    gaps = {after - before for before, after in pairwise(computed[1:])}
    assert max(gaps) - min(gaps) <= 1
    assert sum(run.budgets) / 30 == pytest.approx(mean)
    assert "at even intervals" in run.report.choice


@pytest.mark.parametrize(("steps", "budget", "least"), [(4, 0.5, 3), (6, 0.35, 3), (8, 0.25, 3), (20, 0.1, 4)])
def test_auto_computes_more_where_so_few_steps_would_give_another_clip(steps, budget, least):
    sigmas = [*flow_sigmas(steps), 0.0]
    run = run_of(make_plan(None, budget=budget), sigmas, guidance=1.0)
    computed = sum(run.budgets)
    assert least <= computed <= steps
    assert computed > budget * steps
    assert run.report.asked_budget == budget
    count = f"all {steps}" if computed == steps else f"{computed:g} of {steps}"
    assert f"{count} steps are computed: with fewer, this run would give another clip" in run.report.notes
    by_name = run_of(make_plan(whole_steps("all the same", budget), budget=budget), sigmas, guidance=1.0)
    assert sum(by_name.budgets) == max(2, int(budget * steps + 1e-6)), "a schedule that was named keeps to the budget"


def test_auto_keeps_to_a_budget_that_suffices():
    run = run_of(make_plan(None, budget=0.5), [*flow_sigmas(20), 0.0], guidance=1.0)
    assert sum(run.budgets) == 10
    assert not any("another clip" in note for note in run.report.notes)


def test_a_saved_schedule_of_more_than_its_budget_keeps_its_steps():
    sigmas = [*flow_sigmas(8), 0.0]
    placed = run_of(make_plan(None, budget=0.25), sigmas, guidance=1.0)
    points = tuple(zip(sigmas[:-1], placed.budgets, strict=True))
    saved = Schedule("found", points, provenance={"budget": 0.25, "guidance": 1.0})
    for asked in ({"budget": 0.25}, {"target_speedup": 4.0}):
        run = run_of(make_plan(None, library=[saved], **asked), sigmas, guidance=1.0)
        assert run.settings.schedule.name == "found"
        assert run.budgets == placed.budgets


@pytest.mark.parametrize("runs_tokens", [True, False])
def test_auto_takes_saved_token_steps_only_where_they_can_run(runs_tokens):
    sigmas = [*flow_sigmas(30), 0.0]
    saved = Schedule("tokens", tuple((sigma, 0.4) for sigma in sigmas[:-1]), provenance={"budget": 0.4})
    run = run_of(make_plan(None, budget=0.4, library=[saved]), sigmas, has_runner=runs_tokens)
    assert (run.settings.schedule.name == "tokens") is runs_tokens


@pytest.mark.parametrize("name", ["any-0.40", "wan-0.50"])
@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_former_schedules_are_placed_anew_in_every_run(name, guidance):
    sigmas = [*flow_sigmas(30, 3.0), 0.0]
    former = former_schedule(name)
    run = run_of(make_plan(former), sigmas, guidance=guidance)
    auto = run_of(make_plan(None, budget=float(name[-4:])), sigmas, guidance=guidance)
    assert run.budgets == auto.budgets


@pytest.mark.parametrize(
    "sigmas",
    [[1.0 - n / 1200 for n in range(1201)], [1.0, 0.8, 0.5, 0.0, -0.1], [math.inf, 10.0, 5.0, 2.0, 0.0]],
    ids=["1200 steps", "below 0", "infinite"],
)
def test_levels_that_cannot_be_planned_are_computed_in_full(sigmas):
    for budget in (0.5, 1.0):
        run = run_of(make_plan(None, budget=budget), sigmas)
        assert set(run.budgets) == {1.0}
        assert any("cannot be planned" in note for note in run.report.notes) is (budget < 1.0)


def test_mode_paper_says_that_a_schedule_has_no_token_steps():
    run = run_of(make_plan(whole_steps("whole", 0.4), mode="paper"), [*flow_sigmas(20), 0.0])
    assert any("has whole steps only" in note for note in run.report.notes)


@pytest.mark.parametrize(("steps", "target", "note"), [(8, 5.0, True), (20, 2.0, False), (10, 8.0, True)])
def test_a_target_that_cannot_be_had_is_noted(steps, target, note):
    run = run_of(make_plan(None, target_speedup=target), [*flow_sigmas(steps), 0.0], guidance=1.0)
    assert sum(run.budgets) >= max(2.0, steps / target)
    said = [each for each in run.settings.notes if "is not reached" in each]
    assert bool(said) is note
    assert not note or f"the target of {target:g}x is not reached in this run, which gets" in said[0]
    assert not note or "with fewer, this run would give another clip" in said[0]


def test_a_full_budget_is_full_whatever_a_schedule_says_it_was_found_for():
    partly = Schedule("partly", tuple((sigma, 0.4) for sigma in flow_sigmas(20)), provenance={"budget": 1})
    for plan in (make_plan(partly, budget=1.0), make_plan(None, budget=1.0, library=[partly])):
        run = run_of(plan, [*flow_sigmas(20), 0.0])
        assert run.settings.schedule.name == "partly"
        assert run.settings.is_full
        assert run.budgets == [1.0] * 20


def test_each_run_spends_what_its_own_schedule_was_found_to_pay_for(folder):
    save(in_part("partly 12", 0.5), folder)
    plan = automatic(folder, 0.5)
    twelve = run_of(plan, [*flow_sigmas(12), 0.0], guidance=3.0)
    thirty = run_of(plan, [*flow_sigmas(30), 0.0], guidance=6.0)
    assert (twelve.report.schedule, thirty.report.schedule) == ("partly 12", "half 30")
    assert twelve.budgets == [1.0, *[0.3] * 10, 0.5]
    assert sum(thirty.budgets) / 30 == pytest.approx(0.5)


def test_of_equals_that_of_the_first_folder_is_taken(folder, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    save(made("mine", 30, 0.5, 0.5), own)
    assert pick(0.5, "wan", load_schedules([own, folder])).name == "mine"
    assert pick(0.5, "wan", load_schedules([folder, own])).name == "half 30"


OWN = Forecast(0.05, 1.0, 0.5)


@pytest.mark.parametrize("guidance", [None, 1.0, 3.0, 7.0])
def test_a_schedules_own_forecast_settings_are_used_and_else_those_for_the_guidance(guidance):
    sigmas = [*flow_sigmas(30), 0.0]
    found = made("found", 30, 0.5, 0.5, way={"forecast": OWN}, promise={"cfg": 3.0})
    assert Run.of(make_plan(found, budget=0.5), sigmas, guidance=guidance).settings.forecast == OWN
    plain = Run.of(make_plan(made("plain", 30, 0.5)), sigmas, guidance=guidance)
    assert plain.settings.forecast == plain.context.prior.forecast == usual_forecast(guidance)
    assert (plain.settings.forecast.swing > DEFAULT_FORECAST.swing) == ((guidance or 1.0) > 1.0)


def test_of_equals_one_that_was_found_with_this_guidance_is_taken(folder):
    found = made("found", 30, 0.5, 0.5, guidance=6)
    save(Schedule("for all", found.points, "any", provenance=found.provenance), folder)
    assert pick(0.5, "wan", load_schedules([folder]), 30, 6.0).name == "for all"
    assert pick(0.5, "wan", load_schedules([folder]), 12, 6.0).name == "half 12"
    save(made("mine", 30, 0.5, 0.5, guidance=6), folder)
    assert pick(0.5, "wan", load_schedules([folder]), 30, 6.0).name == "mine"


@pytest.mark.parametrize(("total", "name"), [(30, "half 30"), (28, "half 30"), (12, "half 12")])
@pytest.mark.parametrize("parts", [2, 3])
def test_a_part_of_a_run_takes_the_schedule_for_the_whole(folder, total, name, parts):
    """Two samplers, each of which goes through a part of the noise levels."""
    plan, levels = automatic(folder, 0.5), [*flow_sigmas(total), 0.0]
    cut = total // parts
    for sigmas in (levels[: cut + 1], levels[cut:]):
        assert run_of(plan, sigmas).report.schedule == name
        assert equivalent_steps(plan.library[0], sigmas) == pytest.approx(total, abs=1)


def test_a_schedule_that_was_chosen_for_a_run_keeps_its_own_steps_near_its_own_mean():
    """Of 199 steps it computes 100: at budget 0.5 it stays as it is, whatever the schedule of the usual steps has."""
    own, usual = made("own", 199, 100 / 199, 0.5, cfg=3.0), made("usual", 30, 0.5, 0.5, cfg=6.0)
    run = Run.of(
        make_plan(None, budget=0.5, library=[usual, own]), [*flow_sigmas(199), 0.0], family="wan", guidance=3.0
    )
    assert run.settings.schedule == own
    assert tuple(run.budgets) == own.budgets


def test_a_schedule_of_a_part_of_a_run_is_used_as_it_is_in_that_part():
    """As for the high-noise expert of two: the part does not end without noise."""
    part = flow_sigmas(20, 5.0)[:11]
    budgets = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    saved = Schedule("part", tuple(zip(part[:-1], budgets, strict=True)), provenance={"budget": 0.5})
    assert run_of(make_plan(saved), part).budgets == budgets
    assert equivalent_steps(saved, part) == 10
    chosen = run_of(make_plan(None, budget=0.5, library=[saved]), part)
    assert (chosen.settings.schedule.name, chosen.budgets) == ("part", budgets)


def test_samplers_that_go_back_for_trial_steps_are_not_seen_to_follow_errors():
    """Heun++ calls the model two levels ahead, on latents that are no part of the run."""
    sigmas = [*flow_sigmas(6), 0.0]
    calls = [level for step in range(5) for level in sigmas[step : step + 3] if level > 0.0] + [sigmas[5]]
    profile = SamplerProfile.of_calls(sigmas, calls, None)
    there = SamplerProfile.of_calls(sigmas, sorted(calls, reverse=True), None)
    plan = make_plan(None, budget=0.6)
    assert run_of(plan, sigmas, profile=profile).settings.forecast.response == 0.0
    assert run_of(plan, sigmas, profile=there).settings.forecast.response == 1.0
